"""Greedy writing through plain `generate`, beside transformers' own models of the same shape and litgpt's Llama: tokens
a second.

    pip install -e ".[benchmarks]"
    python benchmarks/decoding_speed.py [--shapes 4x128 6x384 12x768] [--output decoding.json]

The contenders take turns and the median counts; all write the same number of tokens after the same prompt, and no
end-of-text stops them. The roofline is what reading all weights and the cache once a token would take, at the speed at
which one row goes through a matrix of as many numbers, by torch's product or ours, whichever is faster, measured in the
same run; beside it stand the linear layers alone, whose smaller matrices are read more slowly. `--positions`
compares the time of a token late in a text with that of an early one. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F
from training_speed import STYLES, build, check_peers
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging

from scratch_gpt.hardware import use_all_cores
from scratch_gpt.models.fast_decoding import linear, product

SHAPES = ("4x128", "6x384", "12x768")
NEW = 256  # tokens after a prompt of 16
CONTENDERS = [*(f"{kind} {style}" for style in STYLES for kind in ("transformers", "ours")), "litgpt llama"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Write = Callable[[], None]


def writer(model: torch.nn.Module, rows: int, prompt: int, new: int, streamer: BaseStreamer | None = None) -> Write:
    """A function that writes so many tokens after each of so many prompts."""
    ids = torch.randint(3, 60, (rows, prompt), generator=torch.Generator().manual_seed(0))
    if not hasattr(model, "generate"):
        return litgpt_writer(model, ids, new)
    asked = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "use_cache": True, "streamer": streamer}

    def write() -> None:
        written = model.generate(ids, max_new_tokens=new, attention_mask=torch.ones_like(ids), **asked)
        assert written.shape[1] == prompt + new

    return write


def litgpt_writer(model: Any, ids: torch.Tensor, new: int) -> Write:
    """The same by litgpt's own functions for one text and for several."""
    from litgpt.generate.base import batched_generate_fn, generate

    rows, prompt = ids.shape
    model.set_kv_cache(batch_size=rows, max_seq_length=prompt + new)
    greedy = {"temperature": 0.0, "top_p": 0.0}

    def write() -> None:
        if rows == 1:
            assert len(generate(model, ids[0], prompt + new, **greedy)) == prompt + new
            return
        steps = batched_generate_fn(
            model, ids, prompt + new, sample_args=greedy, include_prompt=False, include_eos=True
        )
        assert len(list(steps)) == new

    return write


def seconds(action: Write) -> float:
    """Return the seconds that an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def load(contender: str, shape: str, dtype: torch.dtype, context: int = 1024) -> torch.nn.Module:
    """Build a contender's model with random weights, in evaluation mode."""
    torch.manual_seed(0)
    return build(contender, shape, context).eval().to(dtype)


def bytes_read(model: torch.nn.Module, rows: int, position: float) -> float:
    """Bytes that a token at this position must read: weights but for the tables looked up, and the cache."""
    looked_up = {"wte", "wpe", "embed_tokens", "embed_positions"}
    weights = sum(w.nbytes for name, w in model.named_parameters() if name.split(".")[-2] not in looked_up)
    head = model.get_output_embeddings().weight
    if not any(w is head for n, w in model.named_parameters() if n.split(".")[-2] not in looked_up):
        weights += head.nbytes  # tied: named as the embedding, and read as the head
    config = model.config
    return weights + 2 * rows * position * config.num_hidden_layers * config.hidden_size * head.itemsize


def roofline(count: float, dtype: torch.dtype) -> Write:
    """One row through a matrix of so many bytes, as torch does it or, where that is faster, as our step does."""
    width = 1024
    height = 64 * (int(count / dtype.itemsize / width / 64) + 1)  # which can be cut evenly
    matrix, row = torch.randn(height, width).to(dtype), torch.randn(1, width).to(dtype)
    ways = [lambda x: F.linear(x, matrix), product(matrix, None)]
    best = min(ways, key=lambda way: min(seconds(lambda: way(row)) for _ in range(4)))

    def read() -> None:
        for _ in range(10):
            best(row)

    return read


def products(model: torch.nn.Module, rows: int) -> Write:
    """The linear layers of a token and nothing between them: what is left to gain where these take most of the time."""
    layers = [part for part in model.modules() if isinstance(part, torch.nn.Linear)]
    inputs = [torch.randn(rows, layer.in_features).to(layer.weight.dtype) for layer in layers]
    steps = [(linear(layer), x) for layer, x in zip(layers, inputs, strict=True)]

    def multiply() -> None:
        for _ in range(10):
            for layer, x in steps:
                layer(x)

    return multiply


def race(shape: str, precision: str, rows: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of texts written in turn, as tokens a second."""
    dtype = DTYPES[precision]
    models = {name: load(name, shape, dtype) for name in CONTENDERS}
    writers = {name: writer(model, rows, 16, NEW) for name, model in models.items()}
    limits = {
        "roofline": roofline(bytes_read(models["ours gpt2"], rows, 16 + NEW / 2), dtype),
        "products of gpt2": products(models["ours gpt2"], rows),
    }
    times: dict[str, list[float]] = {name: [] for name in (*limits, *CONTENDERS)}
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for name, write in writers.items():
                taken = seconds(write)
                if turn:  # the first warms up
                    times[name].append(taken)
            for name, limit in limits.items():
                taken = seconds(limit) / 10 * NEW
                if turn:
                    times[name].append(taken)
    speeds = {name: rows * NEW / statistics.median(found) for name, found in times.items()}
    best = max(speed for name, speed in speeds.items() if name.startswith("transformers"))
    return {
        name: {"tokens_per_second": speed, "ratio": speed / best, "of_roofline": speed / speeds["roofline"]}
        for name, speed in speeds.items()
    }


class Clock(BaseStreamer):
    """When each token came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        """Record the time of a token."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Do nothing."""

    def a_token(self) -> float:
        """The median of seconds between tokens, without the prompt and the first, which it leads to."""
        return statistics.median(late - early for early, late in pairwise(self.times[2:]))


def late_and_early(rounds: int, late: int = 2000, early: int = 100, new: int = 64) -> dict[str, float]:
    """How many times as long a token takes late in a text, and how many times as many bytes it reads (6x384)."""
    model = load("ours gpt2", "6x384", torch.float32, context=late + new)
    times: dict[int, list[float]] = {late: [], early: []}
    for _ in range(rounds):
        for place, found in times.items():
            clock = Clock()
            writer(model, 1, place, new, clock)()
            found.append(clock.a_token())
    slower = statistics.median(times[late]) / statistics.median(times[early])
    more = bytes_read(model, 1, late + new / 2) / bytes_read(model, 1, early + new / 2)
    return {"time": slower, "bytes": more, "time_over_bytes": slower / more}


def show(title: str, figures: dict[str, dict[str, float]]) -> None:
    """Print the results of a race as a table."""
    table = Table("contender", "tokens/s", "of the best of transformers'", "of the roofline", title=title)
    for name, row in figures.items():
        table.add_row(name, f"{row['tokens_per_second']:,.0f}", f"{row['ratio']:.2f}", f"{row['of_roofline']:.0%}")
    Console().print(table)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["4x128", "6x384"], help="Layers x width.")
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=["fp32"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 16], help="Texts written at once.")
    parser.add_argument("--rounds", type=int, default=5, help="Texts of each contender.")
    parser.add_argument("--positions", action="store_true", help="Compare late and early tokens, too.")
    parser.add_argument("--output", type=Path, help="Write the figures here, as JSON.")
    args = parser.parse_args()
    check_peers(parser)
    logging.set_verbosity_error()
    use_all_cores()
    found: dict[str, dict[str, dict[str, float]] | dict[str, float]] = {}
    for shape in args.shapes:
        for precision in args.precisions:
            for rows in args.rows:
                title = f"{shape} {precision} rows {rows}"
                figures = race(shape, precision, rows, args.rounds)
                found[title] = figures
                show(title, figures)
    if args.positions:
        found["late and early"] = late_and_early(args.rounds)
        Console().print(found["late and early"])
    if args.output:
        args.output.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
