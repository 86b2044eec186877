"""Decoding speed of greedy `generate`, compared with transformers' own models of the same shape and litgpt's Llama, in
tokens per second.

    pip install -e ".[benchmarks]"
    python benchmarks/decoding_speed.py [--shapes 4x128 6x384 12x768] [--output decoding.json]

The contenders take turns, and the median of their times is reported; all generate the same number of tokens after the
same prompt, without stopping at an end-of-text token. The roofline is the time to read all weights and the cache once
per token, measured in the same run as the product of one row with a single matrix of as many bytes, by torch's product
or ours, whichever is faster. The linear layers alone are reported too: their smaller matrices are read more slowly.
`--positions` compares the time per token late in a text with that early in it. `--engines` compares with llama.cpp,
CTranslate2 and ONNX Runtime instead, each with an export of the same model with a vocabulary of 8,192 (`pip install -e
".[engines]"`), also in translation and classification. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F
from training_speed import STYLES, build, check_peers
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging

from scratch_gpt.hardware import retain_freed_memory, use_all_cores
from scratch_gpt.models.functional_layers import functional_linear, functional_matmul

SHAPES = ("4x128", "6x384", "12x768")
NEW = 256  # tokens after a prompt of 16
CONTENDERS = [*(f"{kind} {style}" for style in STYLES for kind in ("transformers", "ours")), "litgpt llama"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Action = Callable[[], None]


def generator(model: torch.nn.Module, rows: int, prompt: int, new: int, streamer: BaseStreamer | None = None) -> Action:
    """A function that generates tokens after prompts of random tokens.

    Args:
        model: the model, ours, transformers' or litgpt's.
        rows: number of prompts.
        prompt: length of the prompts in tokens.
        new: number of tokens to generate.
        streamer: receives the tokens.
    """
    ids = torch.randint(3, 60, (rows, prompt), generator=torch.Generator().manual_seed(0))
    if not hasattr(model, "generate"):
        return litgpt_generator(model, ids, new)
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "use_cache": True, "streamer": streamer}

    def generate() -> None:
        tokens = model.generate(ids, max_new_tokens=new, attention_mask=torch.ones_like(ids), **options)
        assert tokens.shape[1] == prompt + new

    return generate


def litgpt_generator(model: Any, ids: torch.Tensor, new: int) -> Action:
    """The same with litgpt's own functions, for one prompt or several."""
    from litgpt.generate.base import batched_generate_fn, generate

    rows, prompt = ids.shape
    model.set_kv_cache(batch_size=rows, max_seq_length=prompt + new)
    greedy = {"temperature": 0.0, "top_p": 0.0}

    def run() -> None:
        if rows == 1:
            assert len(generate(model, ids[0], prompt + new, **greedy)) == prompt + new
            return
        steps = batched_generate_fn(
            model, ids, prompt + new, sample_args=greedy, include_prompt=False, include_eos=True
        )
        assert len(list(steps)) == new

    return run


def seconds(action: Action) -> float:
    """Duration of an action in seconds."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def load(contender: str, shape: str, dtype: torch.dtype, context: int = 1024) -> torch.nn.Module:
    """Build a contender's model with random weights, in evaluation mode.

    Args:
        contender: name of the contender.
        shape: one of `SHAPES`.
        dtype: dtype of the weights.
        context: maximum length in tokens.
    """
    torch.manual_seed(0)
    return build(contender, shape, context).eval().to(dtype)


def bytes_read(model: torch.nn.Module, rows: int, position: float) -> float:
    """Bytes that must be read per token at this position: the weights except embedding tables, and the cache."""
    tables = {"wte", "wpe", "embed_tokens", "embed_positions"}
    weights = sum(w.nbytes for name, w in model.named_parameters() if name.split(".")[-2] not in tables)
    head = model.get_output_embeddings().weight
    if not any(w is head for n, w in model.named_parameters() if n.split(".")[-2] not in tables):
        weights += head.nbytes  # tied: listed under the name of the embedding, and read by the head
    config = model.config
    return weights + 2 * rows * position * config.num_hidden_layers * config.hidden_size * head.itemsize


def roofline(count: float, dtype: torch.dtype) -> Action:
    """The product of one row with a matrix of this many bytes, by torch's function or ours, whichever is faster."""
    width = 1024
    height = 64 * (int(count / dtype.itemsize / width / 64) + 1)  # can be split evenly
    matrix, row = torch.randn(height, width).to(dtype), torch.randn(1, width).to(dtype)
    functions = [lambda x: F.linear(x, matrix), functional_matmul(matrix, None)]
    best = min(functions, key=lambda function: min(seconds(lambda: function(row)) for _ in range(4)))

    def read() -> None:
        for _ in range(10):
            best(row)

    return read


def products(model: torch.nn.Module, rows: int) -> Action:
    """The linear layers of a decoding step and nothing else: a bound for what a faster implementation can gain."""
    layers = [part for part in model.modules() if isinstance(part, torch.nn.Linear)]
    inputs = [torch.randn(rows, layer.in_features).to(layer.weight.dtype) for layer in layers]
    steps = [(functional_linear(layer), x) for layer, x in zip(layers, inputs, strict=True)]

    def multiply() -> None:
        for _ in range(10):
            for layer, x in steps:
                layer(x)

    return multiply


def race(shape: str, precision: str, rows: int, rounds: int) -> dict[str, dict[str, float]]:
    """Run all contenders in turn.

    Args:
        shape: one of `SHAPES`.
        precision: one of `DTYPES`.
        rows: number of texts generated at once.
        rounds: number of measured rounds, after one of warm-up.

    Returns:
        For each contender: median speed in tokens per second, its ratio to the best of transformers', and its fraction
        of the roofline.
    """
    dtype = DTYPES[precision]
    models = {name: load(name, shape, dtype) for name in CONTENDERS}
    generators = {name: generator(model, rows, 16, NEW) for name, model in models.items()}
    limits = {
        "roofline": roofline(bytes_read(models["ours gpt2"], rows, 16 + NEW / 2), dtype),
        "products of gpt2": products(models["ours gpt2"], rows),
    }
    times: dict[str, list[float]] = {name: [] for name in (*limits, *CONTENDERS)}
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for name, generate in generators.items():
                taken = seconds(generate)
                if turn:  # the first is warm-up
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
    """Records when each token is generated."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        """Record the time of a token."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Required by `BaseStreamer`."""

    def seconds_per_token(self) -> float:
        """Median time between tokens in seconds, without the prompt and the first token, which includes the prefill."""
        return statistics.median(late - early for early, late in pairwise(self.times[2:]))


def late_and_early(rounds: int, late: int = 2000, early: int = 100, new: int = 64) -> dict[str, float]:
    """Ratio of time per token and of bytes per token, late in a text to early in it, for the shape 6x384.

    Args:
        rounds: number of measurements, of which the median is taken.
        late, early: positions in tokens.
        new: number of tokens to generate at each position.
    """
    model = load("ours gpt2", "6x384", torch.float32, context=late + new)
    times: dict[int, list[float]] = {late: [], early: []}
    for _ in range(rounds):
        for position, found in times.items():
            clock = Clock()
            generator(model, 1, position, new, clock)()
            found.append(clock.seconds_per_token())
    slower = statistics.median(times[late]) / statistics.median(times[early])
    more = bytes_read(model, 1, late + new / 2) / bytes_read(model, 1, early + new / 2)
    return {"time": slower, "bytes": more, "time_over_bytes": slower / more}


def race_engines(shapes: list[str], rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Greedy decoding of 1 and 16 rows per shape, translation of 1 and 32 rows with 1 and 5 beams, classification of
    1 and 32 texts, by ours, transformers and other engines in turn: median tokens per second, and the ratio to
    transformers. Of texts to classify, the tokens are counted without padding."""
    import engine_contenders as engines  # requires the engines

    races: dict[str, tuple[int, Any]] = {}
    for shape, rows in itertools.product(shapes, (1, 16)):
        races[f"decoding {shape} rows {rows}"] = rows * NEW, (engines.decoders, shape, NEW, rows)
    for rows in (1, 32):
        for beams in (1, 5):
            tokens = rows * engines.TARGET_LENGTH
            races[f"translation rows {rows} beams {beams}"] = tokens, (engines.translators, rows, beams)
        for shape in engines.CLASSIFIER_LAYERS:
            tokens = sum(engines.text_lengths(rows))
            races[f"classification {shape} texts {rows}"] = tokens, (engines.classifiers, shape, rows)
    found = {}
    for title, (tokens, (contenders, *arguments)) in races.items():
        # Each engine has a process of its own: threads of one that wait for work would slow those of another down.
        with contextlib.ExitStack() as stack:
            pools: dict[str, ProcessPoolExecutor] = defaultdict(
                lambda: stack.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
            )
            names = pools["torch"].submit(prepare, contenders, arguments).result()
            owners = {name: pools[engine_of(name)] for name in names}
            for pool in pools.values():
                pool.submit(prepare, contenders, arguments).result()
            times: dict[str, list[float]] = {name: [] for name in owners}
            for turn, (name, pool) in itertools.product(range(rounds + 1), owners.items()):
                taken = pool.submit(run, name).result()
                if turn:  # the first is warm-up
                    times[name].append(taken)
        speeds = {name: tokens / statistics.median(taken) for name, taken in times.items()}
        found[title] = {
            name: {"tokens_per_second": speed, "ratio": speed / speeds["transformers"]}
            for name, speed in speeds.items()
        }
        show(title, found[title])
    return found


def engine_of(contender: str) -> str:
    """The engine of a contender; ours and those of transformers share torch."""
    engines = {"llama.cpp": "llama", "CTranslate2": "CTranslate2", "onnxruntime": "onnx"}
    return next((engine for start, engine in engines.items() if contender.startswith(start)), "torch")


ready = contextlib.ExitStack()  # of a process of contenders
actions: dict[str, Action] = {}


def prepare(contenders: Any, arguments: list[Any]) -> list[str]:
    """Build the contenders of a race in this process, unless they are; return their names."""
    if actions:
        return list(actions)
    logging.set_verbosity_error()
    use_all_cores()
    retain_freed_memory()  # as commands do
    folder = Path(ready.enter_context(tempfile.TemporaryDirectory()))
    actions.update(ready.enter_context(contenders(*arguments, folder)))
    return list(actions)


def run(name: str) -> float:
    """Seconds that a contender takes."""
    return seconds(actions[name])


def show(title: str, results: dict[str, dict[str, float]]) -> None:
    """Print a table of results."""
    table = Table("contender", "tokens/s", "ratio to best of transformers", "of roofline", title=title)
    for name, row in results.items():
        share = f"{row['of_roofline']:.0%}" if "of_roofline" in row else ""
        table.add_row(name, f"{row['tokens_per_second']:,.0f}", f"{row['ratio']:.2f}", share)
    Console().print(table)


def main() -> None:
    """Parse the command line, run the benchmark and report the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["4x128", "6x384"], help="Layers x width.")
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, help="Default: fp32.")
    parser.add_argument("--rows", nargs="+", type=int, help="Number of texts generated at once. Default: 1 16.")
    parser.add_argument("--rounds", type=int, default=5, help="Number of measured rounds.")
    parser.add_argument("--positions", action="store_true", help="Also compare late with early tokens.")
    parser.add_argument("--output", type=Path, help="Write the results to this JSON file.")
    parser.add_argument("--engines", action="store_true", help="Compare with other engines, instead of all else.")
    args = parser.parse_args()
    if args.engines and (args.precisions or args.rows or args.positions):
        parser.error("--engines has no --precisions, --rows and --positions")
    args.precisions, args.rows = args.precisions or ["fp32"], args.rows or [1, 16]
    if not args.engines:
        check_peers(parser)
    logging.set_verbosity_error()
    use_all_cores()
    found: dict[str, dict[str, dict[str, float]] | dict[str, float]] = {}
    if args.engines:
        found |= race_engines(args.shapes, args.rounds)
    for shape in args.shapes if not args.engines else ():
        for precision in args.precisions:
            for rows in args.rows:
                title = f"{shape} {precision} rows {rows}"
                results = race(shape, precision, rows, args.rounds)
                found[title] = results
                show(title, results)
    if args.positions:
        found["late and early"] = late_and_early(args.rounds)
        Console().print(found["late and early"])
    if args.output:
        args.output.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
