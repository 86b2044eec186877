"""Where the time of a training step goes: matrix products, attention, optimizer, loss, and everything else.

    pip install -e ".[benchmarks]"
    python benchmarks/training_profile.py --shape 6x384 --contenders "compiled llama" "transformers llama"

The contenders are those of training_speed.py: "ours", "compiled" or "transformers" with a style, or "litgpt llama".
Prints milliseconds per step by kind of operation, as torch's profiler attributes them to the calling thread, the number
of operations that a step calls, and the time of a step without the profiler; the difference is Python and, for small
models, the profiler itself. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections import Counter

import training_speed
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from transformers.utils import logging

from scratch_gpt.hardware import retain_freed_memory, use_all_cores

KINDS = {  # by the names of operations; the first that matches
    "products": r"^(aten::(mm|addmm|bmm|baddbmm|addmv)|mkl::_mkl_linear|mkldnn::_linear_pointwise)$",
    "attention": r"flash_attention",
    "optimizer": r"_fused_adamw_|Optimizer\.step",
    "loss": r"log_softmax|nll_loss|cross_entropy",
    "compiled loops": r"Compiled",
    "everything else": r"",
}
WARM_UP, MEASURED, PROFILED = 10, 30, 10


def measure(contender: str, shape: str, precision: str) -> tuple[Counter[str], float, float]:
    """Profile the steps of a contender.

    Args:
        contender, shape, precision: see training_speed.py.

    Returns:
        Milliseconds per step by kind, operations per step, and milliseconds of a step without the profiler.
    """
    step = training_speed.build_step(contender, shape, precision)
    times = []
    for _ in range(WARM_UP + MEASURED):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(PROFILED):
            step()
    spent: Counter[str] = Counter()
    operations = 0
    for event in profiler.key_averages():
        kind = next(kind for kind, pattern in KINDS.items() if re.search(pattern, event.key))
        spent[kind] += event.self_cpu_time_total / 1000 / PROFILED
        operations += event.count if event.key.startswith("aten::") else 0
    return spent, operations / PROFILED, 1000 * statistics.median(times[WARM_UP:])


def main() -> None:
    """Print a table of the contenders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=training_speed.SHAPES, default="6x384", help="Layers x width.")
    parser.add_argument("--contenders", nargs="+", default=["compiled llama", "ours llama", "transformers llama"])
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    args = parser.parse_args()
    logging.set_verbosity_error()
    use_all_cores()
    retain_freed_memory()
    table = Table("ms per step", *args.contenders, title=f"{args.shape} {args.precision}")
    found = [measure(contender, args.shape, args.precision) for contender in args.contenders]
    for kind in KINDS:
        table.add_row(kind, *(f"{spent[kind]:.2f}" for spent, _, _ in found))
    table.add_row("operations", *(f"{operations:,.0f}" for _, operations, _ in found))
    table.add_row("a step, not profiled", *(f"{whole:.2f}" for _, _, whole in found))
    Console().print(table)


if __name__ == "__main__":
    main()
