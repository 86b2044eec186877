"""Text to token ids on disk: our shards beside `datasets.map` with all cores; and the time to import the package and
open a tiny model, beside transformers' own GPT-2.

    pip install -e . && python benchmarks/preparation.py [--stories 60000] [--rounds 3] [--output preparation.json]

The contenders take turns and the median counts. All tokenise one document a line with a byte-level BPE of 890 and
write the ids; caches are empty each time. Reading the file counts for ours; `datasets` has read it before. Run it on
an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from scratch_gpt import ScratchGPTConfig, ScratchGPTForCausalLM, train_tokenizer
from scratch_gpt.data.corpora.stories import stories

MAP = """
from datasets import load_dataset
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
texts = load_dataset("json", data_files=TEXT, split="train", cache_dir=SCRATCH)
started = time.perf_counter()
ids = texts.map(lambda rows: {"ids": tokenizer(rows["text"])["input_ids"]}, batched=True, num_proc=PROCESSES,
                remove_columns=["text"])
print(time.perf_counter() - started)
"""
PROCESSES = 'os.environ.update(TOKENIZERS_PARALLELISM="false")'
TOKENISE = {
    "datasets.map, processes": PROCESSES + MAP.replace("PROCESSES", "len(os.sched_getaffinity(0))"),
    "datasets.map, threads": MAP.replace("PROCESSES", "None"),
    "scratch_gpt": """
from scratch_gpt.data.batching.token_shards import prepare
from scratch_gpt.data.readers.sources import open_source
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
texts = open_source(TEXT)
started = time.perf_counter()
prepare(texts, tokenizer, 0.1, None, lambda characters: None)
print(time.perf_counter() - started)
""",
}
OPEN = {
    "transformers' GPT-2": "from transformers import GPT2LMHeadModel as Model",
    "scratch_gpt": "from scratch_gpt import ScratchGPTForCausalLM as Model",
}


def run(code: str, scratch: Path) -> float:
    """Seconds that a fresh process reports on its last line."""
    environment = {**os.environ, "SCRATCH_GPT_CACHE": str(scratch / "cache"), "HF_DATASETS_CACHE": str(scratch / "hf")}
    command = [sys.executable, "-c", "import os, sys, time\n" + code]
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(result.stdout.split()[-1])


def race(contenders: dict[str, str], rounds: int) -> dict[str, float]:
    """Medians of seconds, in turn."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, code in contenders.items():
            with tempfile.TemporaryDirectory() as scratch:
                times[name].append(run(code.replace("SCRATCH", repr(scratch)), Path(scratch)))
    return {name: statistics.median(found) for name, found in times.items()}


def save_models(folder: Path) -> dict[str, Path]:
    """The same tiny model as ours and as transformers' own."""
    from transformers import GPT2Config, GPT2LMHeadModel

    ours: Any = ScratchGPTForCausalLM(
        ScratchGPTConfig.from_preset("gpt2", vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    )
    theirs: Any = GPT2LMHeadModel(GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4))
    places = {"scratch_gpt": folder / "ours", "transformers' GPT-2": folder / "theirs"}
    ours.save_pretrained(places["scratch_gpt"])
    theirs.save_pretrained(places["transformers' GPT-2"])
    return places


def show(title: str, figures: dict[str, float], peer: str) -> None:
    """Print seconds of all contenders as a table, relative to `peer`."""
    table = Table("contender", "seconds", f"of {peer}'s time", title=title)
    for name, seconds in figures.items():
        table.add_row(name, f"{seconds:.2f}", f"{seconds / figures[peer]:.2f}")
    Console().print(table)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stories", type=int, default=60_000, help="Documents to prepare, about 300 bytes each.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="Write the figures here, as JSON.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = list(stories(seed=0, count=args.stories))
        (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        train_tokenizer(texts[:5000], "bpe", 890).save_pretrained(folder / "tokenizer")
        places = {"FOLDER": folder / "tokenizer", "TEXT": folder / "text.jsonl"}
        for word, place in places.items():
            for contender, code in TOKENISE.items():
                TOKENISE[contender] = code.replace(word, repr(str(place)))
        prepared = race(TOKENISE, args.rounds)
        show(f"{args.stories:,} documents to ids on disk", prepared, min(list(prepared)[:2], key=prepared.__getitem__))
        models = save_models(folder)
        opened = race(
            {
                kind: f"started = time.perf_counter()\n{imported}\nModel.from_pretrained({str(models[kind])!r})\n"
                "print(time.perf_counter() - started)"
                for kind, imported in OPEN.items()
            },
            2 * args.rounds + 1,
        )
        show("import and open a tiny model", opened, "transformers' GPT-2")
    if args.output:
        args.output.write_text(json.dumps({"preparation": prepared, "opening": opened}, indent=1))


if __name__ == "__main__":
    main()
