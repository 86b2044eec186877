"""Speed and size of the page of `scratch-gpt see` in Chromium: time until it is ready, tokens per second, megabytes.

    pip install -e ".[dev]" && apt-get install chromium
    python benchmarks/page_speed.py [MODEL ...] [--runs 5] [--tokens 128] [--output page_speed.json]

MODEL is a model directory; by default, two models with random weights are measured: one of the size that
`scratch-gpt train language_modeling` trains, and one of 20 million parameters. The page is opened from a file, anew in
each run, and the medians are reported. Ready means that the model can be called and its first view is shown; speed is
that of greedy `generate` with a cache, of the second call, after the browser has compiled the code. Run it on an idle
machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rich.table import Table

from scratch_gpt import ScratchGPTConfig, ScratchGPTForCausalLM, train_tokenizer
from scratch_gpt.auto import register
from scratch_gpt.data.corpora.stories import stories
from scratch_gpt.hub.loading import Tokenizers
from scratch_gpt.see.page import example, page_html
from scratch_gpt.see.payload import ModelPayload, model_payload, payload_of

SHAPES = {
    "1M": {"hidden_size": 128, "intermediate_size": 352, "num_attention_heads": 2, "num_hidden_layers": 4},
    "20M": {"hidden_size": 448, "intermediate_size": 1216, "num_attention_heads": 7, "num_hidden_layers": 8},
}
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
READY = "window.ready.then(() => performance.getEntriesByName('ready')[0].startTime)"
SPEED = """async ([text, count]) => {
    const model = await window.ready;
    const ids = model.encode(text);
    const timed = () => {
        const start = performance.now();
        const written = model.generate(ids, count, { minNewTokens: count }).length;
        return (1000 * written) / (performance.now() - start);
    };
    timed();
    return timed();
}"""


def random_model(shape: dict[str, int]) -> ModelPayload:
    """A page's model of this shape with random weights and a tokenizer of the built-in stories."""
    tokenizer = train_tokenizer(stories(seed=0, count=3000), "bpe")
    config = ScratchGPTConfig.from_preset(
        "llama", vocab_size=len(tokenizer), max_position_embeddings=256, eos_token_id=None, **shape
    )
    return payload_of(ScratchGPTForCausalLM(config).eval(), Tokenizers(tokenizer, tokenizer), "random")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running Chromium of the system."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        yield browser
        browser.close()


def measure(browser: Browser, payload: ModelPayload, runs: int, tokens: int) -> dict[str, Any]:
    """Open the page of a model `runs` times; returns sizes in bytes, the time in ms and the speed in tokens/s.

    Args:
        browser: of Playwright.
        payload: the model.
        runs: how often it is opened.
        tokens: how many tokens are generated.
    """
    text = example(payload.content)
    ready, speeds = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "see.html")
        path.write_bytes(page_html([payload], text).encode())
        for _ in range(runs):
            page = browser.new_page()
            page.goto(path.as_uri())
            ready.append(page.evaluate(READY))
            if payload.content["generation"] is not None:
                speeds.append(page.evaluate(SPEED, [text, tokens]))
            page.close()
        size = path.stat().st_size
    return {
        "page_bytes": size,
        "weight_bytes": len(payload.weights),
        "largest_page_bytes": int(1.5 * len(payload.weights) + 300_000),
        "ready_ms": statistics.median(ready),
        "tokens_per_second": statistics.median(speeds) if speeds else None,
    }


def main() -> None:
    """Measure, print a table, and write it as JSON if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="model directories; default: two random models")
    parser.add_argument("--runs", type=int, default=5, help="how often each page is opened")
    parser.add_argument("--tokens", type=int, default=128, help="how many tokens are generated")
    parser.add_argument("--output", type=Path, help="write the measurements to this JSON file")
    arguments = parser.parse_args()
    register()
    payloads = {name: model_payload(name) for name in arguments.models}
    payloads = payloads or {name: random_model(shape) for name, shape in SHAPES.items()}
    with chromium() as browser:
        rows = {name: measure(browser, each, arguments.runs, arguments.tokens) for name, each in payloads.items()}
    table = Table("model", "weights, MB", "page, MB", "at most, MB", "ready, ms", "tokens per second")
    for name, row in rows.items():
        sizes = [f"{row[key] / 1e6:.2f}" for key in ("weight_bytes", "page_bytes", "largest_page_bytes")]
        speed = "–" if row["tokens_per_second"] is None else f"{row['tokens_per_second']:.0f}"
        table.add_row(name, *sizes, f"{row['ready_ms']:.0f}", speed)
    Console().print(table)
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
