"""Training speed compared with transformers' own models of the same shape, litgpt's and nanoGPT's: tokens per second,
and peak memory.

    pip install -e ".[benchmarks]" && python benchmarks/training_speed.py [--shapes 4x128 6x384] [--output speed.json]

A step is forward, backward and fused AdamW, without dropout, on one batch of random tokens. The contenders, each in its
own process, take turns of a few steps, and the median is reported. Ours run eagerly and with compiled blocks
(`--compile on`), and keep freed memory, as all of our training runs do; the others run with their defaults, and with
`--keep_memory` keep freed memory too. litgpt's Llama also runs compiled as a whole, as in its own script. The roofline
is the time of a step's matrix products at the speed of one large product, measured in the same run; the products of the
linear layers in their actual shapes are reported too. With NANOGPT=PATH_TO_CHECKOUT nanoGPT runs too, and `--defaults`
compares its training script's CPU defaults with ours. `--memory` measures peaks, not speed. Run on an idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, NanoChatConfig, NanoChatForCausalLM
from transformers.utils import logging

from scratch_gpt import ScratchGPTConfig, ScratchGPTForCausalLM
from scratch_gpt.evaluation.language_modeling import sum_of_losses
from scratch_gpt.hardware import retain_freed_memory, use_all_cores
from scratch_gpt.train.optim.optimizers import build_optimizers
from scratch_gpt.train.performance.attention_choice import choose_attention
from scratch_gpt.train.performance.compile_blocks import compile_blocks
from scratch_gpt.train.performance.precision import uses_bf16
from scratch_gpt.train.tasks.language_modeling.arguments import PretrainingArguments

STYLES = ("gpt2", "llama", "nanochat")
# layers, width, heads, context, rows, vocabulary
SHAPES = {
    "4x128": (4, 128, 4, 64, 12, 65),
    "4x512": (4, 512, 16, 64, 12, 65),
    "6x384": (6, 384, 6, 256, 8, 65),
    "12x768": (12, 768, 12, 512, 4, 50304),
}
PEERS = ("transformers", "litgpt", "nanoGPT")
WARM_UP = 4  # unmeasured steps per contender, until large allocations are stable
Step = Callable[[], None]


def ours(style: str, shape: str, context: int, compiled: bool) -> torch.nn.Module:
    """Our model of a style and a shape, for a context length in tokens."""
    layers, width, heads, _, _, vocabulary = SHAPES[shape]
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    off = dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout"), 0.0)
    config = ScratchGPTConfig.from_preset(style, vocab_size=vocabulary, max_position_embeddings=context, **sizes, **off)
    model = ScratchGPTForCausalLM(config)
    choose_attention(model, torch.device("cpu"), context, same_length=True)
    compile_blocks(model, "on" if compiled else "off", 0, fixed_shape=True)
    return model


def gated_size(width: int) -> int:
    """Width of the feed-forward network of our preset `llama`."""
    return ScratchGPTConfig.from_preset("llama", hidden_size=width, num_attention_heads=1).intermediate_size


def native(style: str, shape: str, context: int) -> torch.nn.Module:
    """transformers' own model of the same style and shape."""
    layers, width, heads, _, _, vocabulary = SHAPES[shape]
    if style == "gpt2":
        off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        sizes = {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": context}
        return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, bos_token_id=1, eos_token_id=1, **sizes, **off))
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    sizes |= {"num_key_value_heads": heads, "max_position_embeddings": context, "vocab_size": vocabulary}
    if style == "llama":
        return LlamaForCausalLM(LlamaConfig(intermediate_size=gated_size(width), **sizes))
    return NanoChatForCausalLM(NanoChatConfig(intermediate_size=4 * width, **sizes))


def litgpt(shape: str, context: int) -> torch.nn.Module:
    """litgpt's model with the architecture and sizes of the Llama above."""
    from litgpt.config import Config
    from litgpt.model import GPT

    layers, width, heads, _, _, vocabulary = SHAPES[shape]
    sizes = {"n_layer": layers, "n_embd": width, "n_head": heads, "intermediate_size": gated_size(width)}
    sizes |= {"block_size": context, "vocab_size": vocabulary, "padded_vocab_size": vocabulary}
    parts = {"norm_class_name": "RMSNorm", "mlp_class_name": "LLaMAMLP", "rotary_percentage": 1.0}
    return GPT(Config(bias=False, parallel_residual=False, **parts, **sizes))


def nanogpt(shape: str) -> torch.nn.Module:
    """nanoGPT's model, from the checkout in the environment variable NANOGPT."""
    sys.path.insert(0, os.environ["NANOGPT"])
    from model import GPT, GPTConfig

    layers, width, heads, context, _, vocabulary = SHAPES[shape]
    return GPT(GPTConfig(context, vocabulary, layers, heads, width, dropout=0.0, bias=False))


def build(contender: str, shape: str, context: int | None = None) -> torch.nn.Module:
    """The model of a contender, with the shape's context or another one."""
    kind, _, style = contender.partition(" ")
    context = context or SHAPES[shape][3]
    if kind == "nanoGPT":
        return nanogpt(shape)
    if kind in ("litgpt", "litgpt-compiled"):
        return litgpt(shape, context)
    return native(style, shape, context) if kind == "transformers" else ours(style, shape, context, kind == "compiled")


def contenders(styles: Iterable[str], compiled: bool) -> list[str]:
    """Names of all contenders of these styles."""
    kinds = ["transformers", "ours"] + ["compiled"] * compiled
    names = [f"{kind} {style}" for style in styles for kind in kinds]
    if "llama" in styles:
        names += ["litgpt llama"] + ["litgpt-compiled llama"] * compiled
    return names + ["nanoGPT"] * ("NANOGPT" in os.environ)


def stepper(contender: str, shape: str, bf16: bool) -> Step:
    """A function that performs one training step; all contenders use the same optimizer."""
    model = build(contender, shape).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    if contender.startswith("litgpt-compiled"):
        model = torch.compile(model)
    return step_of(model, contender, shape, [optimizer], bf16)


def default_stepper(contender: str, shape: str) -> Step:
    """A step with the defaults of each package's training script for a long run on a CPU: nanoGPT compiled, in float32,
    with AdamW; ours with compiled blocks, in the precision that it chooses, with Muon for matrices."""
    if contender == "nanoGPT":
        model = build(contender, shape).train()
        optimizers = [model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), "cpu")]
        return step_of(torch.compile(model), contender, shape, optimizers, bf16=False, clip=True)
    model = build("compiled llama", shape).train()
    optimizers = build_optimizers(model, PretrainingArguments())
    return step_of(model, contender, shape, optimizers, chosen_precision(shape), clip=True)


def chosen_precision(shape: str) -> bool:
    """Whether `--precision auto` chooses bfloat16 for a shape."""
    return uses_bf16("auto", torch.device("cpu"), SHAPES[shape][1])


def step_of(
    model: Any, contender: str, shape: str, optimizers: list[torch.optim.Optimizer], bf16: bool, clip: bool = False
) -> Step:
    """A function that performs one training step.

    Args:
        model, contender, shape: the model, the contender's name and one of `SHAPES`.
        optimizers: applied one after the other.
        bf16: whether to use bfloat16 autocast.
        clip: whether to clip the gradient norm to 1.
    """
    torch.manual_seed(0)
    *_, context, rows, vocabulary = SHAPES[shape]
    tokens = torch.randint(0, vocabulary, (rows, context))
    labels = F.pad(tokens[:, 1:], (0, 1), value=-100)

    def loss() -> torch.Tensor:
        if contender == "nanoGPT":
            return model(tokens, torch.where(labels == -100, -1, labels))[1]
        if contender.startswith("litgpt"):
            return F.cross_entropy(model(tokens).flatten(0, 1), labels.flatten())
        if contender.startswith("transformers"):
            return model(input_ids=tokens, labels=tokens, use_cache=False).loss
        return sum_of_losses(model, {"input_ids": tokens, "labels": labels}) / (rows * (context - 1))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss()
        value.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def products(style: str, shape: str, bf16: bool) -> Step:
    """The products of a step's linear layers, forward and backward, and nothing else: a tighter bound than the
    roofline, since these shapes are slower than one large product. The products of attention are not included."""
    context, rows = SHAPES[shape][3:5]
    dtype = torch.bfloat16 if bf16 else torch.float32
    model = build(f"ours {style}", shape)
    weights = [part.weight.detach().to(dtype) for part in model.modules() if isinstance(part, torch.nn.Linear)]
    tokens = {size: torch.randn(rows * context, size, dtype=dtype) for weight in weights for size in weight.shape}

    def multiply() -> None:
        for weight in weights:
            out, inner = weight.shape
            F.linear(tokens[inner], weight)
            tokens[out] @ weight
            tokens[out].T @ tokens[inner]

    return multiply


def roofline(shape: str, bf16: bool) -> float:
    """Seconds that the matrix products of a step take at the speed of one large product."""
    layers, width, _, context, rows, vocabulary = SHAPES[shape]
    matrix = torch.randn(2048, 2048, dtype=torch.bfloat16 if bf16 else torch.float32)
    times = []
    for _ in range(8):
        started = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - started)
    operations = 6 * rows * context * (layers * (12 * width**2 + context * width) + width * vocabulary)
    return operations / (2 * 2048**3 / min(times))


class Contender:
    """A process that performs training steps on request."""

    def __init__(self, name: str, shape: str, options: list[str]):
        command = [sys.executable, __file__, "--contender", name, "--shapes", shape, *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def take(self, steps: int) -> dict[str, Any]:
        """Perform steps. Returns the seconds of each, and the peak of resident bytes minus that before the model was
        built. Raises SystemExit if the process has failed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        answer = next((line for line in self.process.stdout if line.startswith("{")), None)
        if answer is None:
            raise SystemExit("a contender has failed; its error is printed above")
        return json.loads(answer)


def contend(name: str, shape: str, precision: str) -> None:
    """Main function of a contender's process: performs as many steps as each line of stdin requests."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = build_step(name, shape, precision)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            started = time.perf_counter()
            step()
            times.append(time.perf_counter() - started)
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        print(json.dumps({"seconds": times, "peak": peak}), flush=True)


def build_step(name: str, shape: str, precision: str) -> Step:
    """The step of a contender in a precision, or with its defaults."""
    if precision == "defaults":
        return default_stepper(name, shape)
    if name.startswith("products"):
        return products(name.split()[-1], shape, precision == "bf16")
    return stepper(name, shape, precision == "bf16")


def race(names: list[str], shape: str, options: list[str], bf16: bool, seconds: float) -> dict[str, dict[str, float]]:
    """Run all contenders in turn. Returns for each the median speed in tokens per second, its fraction of the roofline,
    and its ratio to that of its peer.

    Args:
        names, shape: the contenders' names and one of `SHAPES`.
        options: command-line options of their processes.
        bf16: whether the roofline is that of bfloat16.
        seconds: time per contender.
    """
    *_, context, rows, _ = SHAPES[shape]
    times: dict[str, list[float]] = {name: [] for name in names}
    ideal = [roofline(shape, bf16)]
    with contextlib.ExitStack() as stack:
        racing = {name: stack.enter_context(Contender(name, shape, options)) for name in names}
        for contender in racing.values():
            contender.take(WARM_UP)
        end = time.perf_counter() + seconds * len(names)
        while time.perf_counter() < end or len(ideal) < 4:
            for name, contender in racing.items():
                times[name] += contender.take(2)["seconds"]
            ideal.append(roofline(shape, bf16))
    speeds = {name: rows * context / statistics.median(found) for name, found in times.items()}
    best = rows * context / statistics.median(ideal)
    results = {name: {"tokens_per_second": speed, "of_roofline": speed / best} for name, speed in speeds.items()}
    for name in speeds:
        _, _, style = name.partition(" ")
        peer = "nanoGPT" if style == "by default" else f"transformers {style}"
        if peer in speeds and peer != name:
            results[name]["ratio"] = speeds[name] / speeds[peer]
    return results


def peak_memory(name: str, shape: str, options: list[str]) -> int:
    """Peak memory in bytes of two steps: the median of three processes, which differ in fragmentation."""
    peaks = []
    for _ in range(3):
        with Contender(name, shape, options) as contender:
            peaks.append(contender.take(2)["peak"])
    return int(statistics.median(peaks))


def show_peaks(peaks: dict[str, int], title: str) -> dict[str, int]:
    """Print a table of peak memory in GiB; return the peaks."""
    table = Table("contender", "peak memory", "of GPT-2", title=title)
    for name, peak in peaks.items():
        of_gpt2 = f"{peak / peaks['transformers gpt2']:.2f}" if "transformers gpt2" in peaks else ""
        table.add_row(name, f"{peak / 2**30:.2f} GiB", of_gpt2)
    Console().print(table)
    return peaks


def show(title: str, results: dict[str, dict[str, float]]) -> None:
    """Print a table of results."""
    table = Table("contender", "tokens/s", "ratio to peer", "of roofline", title=title)
    for name, row in results.items():
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
        table.add_row(name, f"{row['tokens_per_second']:,.0f}", ratio, f"{row['of_roofline']:.0%}")
    Console().print(table)


def check_peers(parser: argparse.ArgumentParser) -> None:
    """Exit with an error if litgpt is not installed."""
    if importlib.util.find_spec("litgpt") is None:
        parser.error('litgpt is missing: pip install -e ".[benchmarks]"')


def main() -> None:
    """Parse the command line, run the benchmark and report the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["4x128", "6x384"], help="Layers x width.")
    parser.add_argument("--styles", nargs="+", choices=STYLES, default=STYLES)
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--rows", type=int, help="Batch size; by default 12, 12, 8 and 4, in the order of the shapes.")
    parser.add_argument("--seconds", type=float, default=10, help="Seconds per contender.")
    parser.add_argument("--no_compile", action="store_true", help="Do not run compiled contenders.")
    parser.add_argument(
        "--defaults", action="store_true", help="Compare nanoGPT's defaults with ours, and nothing else."
    )
    parser.add_argument("--memory", action="store_true", help="Measure peak memory, not speed.")
    parser.add_argument(
        "--keep_memory", action="store_true", help="Keep freed memory in the processes of other packages, too."
    )
    parser.add_argument("--output", type=Path, help="Write the results to this JSON file.")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.set_verbosity_error()
    use_all_cores()
    if args.rows is not None and args.rows < 1:
        parser.error(f"--rows is {args.rows}, want at least 1")
    if args.rows:
        SHAPES.update({shape: (*SHAPES[shape][:4], args.rows, SHAPES[shape][5]) for shape in args.shapes})
    if args.contender:
        if args.keep_memory or not args.contender.startswith(PEERS):
            retain_freed_memory()
        contend(args.contender, args.shapes[0], "defaults" if args.defaults else args.precisions[0])
        return
    if "llama" in args.styles and not args.defaults:  # the only style that litgpt is compared with
        check_peers(parser)
    if args.defaults and (args.memory or "NANOGPT" not in os.environ):
        parser.error("--defaults needs NANOGPT=PATH_TO_CHECKOUT, and cannot be combined with --memory")
    results: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    for shape, precision in itertools.product(args.shapes, ["defaults"] if args.defaults else args.precisions):
        bf16, title = precision == "bf16" or (args.defaults and chosen_precision(shape)), f"{shape} {precision}"
        options = ["--rows", str(SHAPES[shape][4])] + ["--keep_memory"] * args.keep_memory
        options += ["--defaults"] if args.defaults else ["--precisions", precision]
        names = contenders(args.styles, not (args.no_compile or args.memory))
        if args.memory:
            peaks = {name: peak_memory(name, shape, options) for name in names}
            results[f"{title} memory"] = show_peaks(peaks, title)
            continue
        names += [f"products of {style}" for style in args.styles]
        names = ["nanoGPT", "ours by default"] if args.defaults else names
        results[title] = race(names, shape, options, bf16, args.seconds)
        show(title, results[title])
    if args.output:
        args.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
