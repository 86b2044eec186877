"""How long saving a checkpoint blocks training, compared with a copy of the same bytes in memory.

    pip install -e . && python stress/checkpoint_save.py --output save.json

A GPT of 100 million parameters with AdamW. Alternately, all tensors of weights and optimizer are copied (`clone`), and
the snapshot of a save is taken, after which training continues. Then training steps are timed, with and without a
concurrent write of the snapshot. Prints medians and ratios, writes JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from scratch_gpt import ScratchGPTConfig, ScratchGPTForCausalLM
from scratch_gpt.train.checkpoints.checkpoint import take_snapshot, write_checkpoint


def seconds(act: Callable[[], object]) -> float:
    """Return the seconds that an action takes."""
    started = time.perf_counter()
    result = act()
    ended = time.perf_counter()
    del result
    return ended - started


def main() -> None:
    """Run the measurement from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden_size", type=int, default=768, help="768 makes 100 million parameters.")
    parser.add_argument("--repeats", type=int, default=7, help="Number of measurements.")
    parser.add_argument("--output", type=Path, help="Write the metrics to this file, as JSON.")
    args = parser.parse_args()

    torch.manual_seed(0)
    sizes = {"hidden_size": args.hidden_size, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 20_000}
    model = ScratchGPTForCausalLM(ScratchGPTConfig.from_preset("gpt2", **sizes, max_position_embeddings=256))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    ids = torch.randint(0, 20_000, (1, 128))

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    tensors = list(model.state_dict(keep_vars=True).values())
    tensors = list({tensor.data_ptr(): tensor for tensor in tensors}.values())
    tensors += [t for state in optimizer.state.values() for t in state.values()]
    copies, snapshots = [], []
    for _ in range(args.repeats):
        copies.append(seconds(lambda: [tensor.detach().clone() for tensor in tensors]))
        snapshots.append(seconds(lambda: take_snapshot(1, accelerator, model, [optimizer], {})))

    steps_alone = [seconds(step) for _ in range(args.repeats)]
    steps_during_write = []
    with tempfile.TemporaryDirectory() as folder:
        snapshot = take_snapshot(1, accelerator, model, [optimizer], {})
        write = (Path(folder), snapshot, lambda place, weights: model.save_pretrained(place, state_dict=weights), 1)
        writer = threading.Thread(target=write_checkpoint, args=write)
        started = time.perf_counter()
        writer.start()
        while writer.is_alive():
            steps_during_write.append(seconds(step))
        write_seconds = time.perf_counter() - started

    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    metrics = {
        "parameters": model.num_parameters(),
        "gigabytes": size / 1e9,
        "copy_seconds": statistics.median(copies),
        "snapshot_seconds": statistics.median(snapshots),
        "write_seconds": write_seconds,
        "step_seconds": statistics.median(steps_alone),
        "step_seconds_beside_a_write": statistics.median(steps_during_write),
    }
    metrics["snapshot_to_copy"] = metrics["snapshot_seconds"] / metrics["copy_seconds"]
    metrics["step_beside_a_write_to_step"] = metrics["step_seconds_beside_a_write"] / metrics["step_seconds"]
    table = Table("metric", "")
    for name, value in metrics.items():
        table.add_row(name, f"{value:,.3f}" if isinstance(value, float) else f"{value:,}")
    Console().print(table)
    if args.output:
        args.output.write_text(json.dumps(metrics, indent=1) + "\n")


if __name__ == "__main__":
    main()
