"""Preparation of a large text: time with one process, with several, and with the threads of the tokenizer; that the
files are the same after kills; and the time and the memory of the plan of an epoch of 10 billion tokens.

    pip install -e . && python benchmarks/preparation_at_size.py [--gigabytes 2] [--rounds 1] [--output at_size.json]
    python benchmarks/preparation_at_size.py --gigabytes 2 --kills 10 --documents 0
    python benchmarks/preparation_at_size.py --gigabytes 0 --documents 10000000 --tokens 10000000000

The text is a table of the built-in stories, each with a number of its own, so that no two documents are equal; the
tokenizer is a byte-level BPE of 890 tokens. Each run starts with an empty cache and includes reading the text; all must
write the same files. With `--kills`, a preparation by several processes is killed that many times, at random: the first
process or one of the others, in turn. The tokens of the plan are a sparse file. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from scratch_gpt import train_tokenizer
from scratch_gpt.data.batching.preparation import PART_CHARACTERS
from scratch_gpt.data.corpora.stories import stories

DISTINCT = 20_000  # stories, which are repeated with other numbers
PREPARE = """
from transformers import PreTrainedTokenizerFast
from scratch_gpt.data.batching.token_shards import prepare
from scratch_gpt.data.readers.sources import open_source
source, tokenizer = open_source(arguments["text"]), PreTrainedTokenizerFast.from_pretrained(arguments["tokenizer"])
source.fingerprint()
cpu_before, started = time.process_time(), time.perf_counter()
processes = arguments["processes"]
if processes is None:  # the threads of this process, whatever the size of the text
    from scratch_gpt.data.batching import preparation
    preparation.available_cores = preparation.threads_of_user = lambda: 1
prepare(source, tokenizer, num_processes=processes)
"""
PLAN = """
import numpy as np
from scratch_gpt.data.batching.packing import PackedRows
from scratch_gpt.data.batching.token_shards import Shard
ends = np.load(arguments["ends"], mmap_mode="r").view(np.ndarray)
tokens = np.memmap(arguments["tokens"], dtype=np.uint16, mode="r")
shard = Shard(tokens, ends, len(tokens), len(tokens), key="synthetic")
rows = PackedRows(shard, 1024, 1, 0, seed=0)
cpu_before, started = time.process_time(), time.perf_counter()
plan = rows.plan(0)
found["rows"] = len(plan)
found["filled"] = len(tokens) / (1024 * len(plan))
"""
MEASURE = """
import json, resource, sys, time
arguments, found = json.loads(sys.argv[1]), {}
CODE
found["seconds"] = time.perf_counter() - started
usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
found["cpu_seconds"] = sum(each.ru_utime + each.ru_stime for each in usage) - cpu_before
found["megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
found["megabytes_of_a_process"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(json.dumps(found))
"""


def start(code: str, cache: Path, arguments: dict[str, Any]) -> subprocess.Popen[str]:
    """Run code in a new process, and do not wait for it.

    Args:
        code: Python code that sets `started`.
        cache: cache folder.
        arguments: values that the code reads from `arguments`.
    """
    command = [sys.executable, "-c", MEASURE.replace("CODE", code), json.dumps(arguments)]
    environment = {**os.environ, "SCRATCH_GPT_CACHE": str(cache)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def measure(code: str, cache: Path, arguments: dict[str, Any]) -> dict[str, float]:
    """Run code in a new process; return its seconds, its peak memory in MiB, and what it found.

    Args:
        code, cache, arguments: see `start`.
    """
    process = start(code, cache, arguments)
    output, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"a process ended with {process.returncode}: {errors}")
    return json.loads(output.splitlines()[-1])


def digests(cache: Path) -> dict[str, str]:
    """SHA-256 of the prepared files in a cache, by name; it must have one entry, and nothing that is unfinished."""
    (entry,) = (cache / "shards").iterdir()
    found = {}
    for path in sorted(entry.iterdir()):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def write_text(path: Path, size: int) -> None:
    """Write a table of about `size` bytes, one story per row."""
    with path.open("w") as file:
        for number, text in enumerate(cycle(stories(seed=0, count=DISTINCT))):
            file.write(json.dumps({"text": f"{number}. {text}"}) + "\n")
            if number % 1000 == 0 and file.tell() >= size:
                return


def race(folder: Path, rounds: int, kills: int) -> dict[str, dict[str, float]]:
    """Prepare a text with one process, with as many as there are cores, and with threads, in turn; return the medians.

    Args:
        folder: with the text and the tokenizer; the caches are written there.
        rounds: number of runs of each.
        kills: see `interrupted`; if it is not 0, the others are omitted.
    """
    cores = len(os.sched_getaffinity(0))
    candidates = {f"{cores} processes": cores} | ({} if kills else {"one process": 1, f"{cores} threads": None})
    given = {"text": str(folder / "text.jsonl"), "tokenizer": str(folder / "tokenizer")}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in candidates}
    written = []
    for _ in range(rounds):
        for name, processes in candidates.items():
            with tempfile.TemporaryDirectory(dir=folder) as cache:
                runs[name].append(measure(PREPARE, Path(cache), {**given, "processes": processes}))
                written.append(digests(Path(cache)))
                Console().print(name, runs[name][-1])
    if kills:
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            interrupted(Path(cache), {**given, "processes": cores}, kills)
            written.append(digests(Path(cache)))
    if any(files != written[0] for files in written):
        raise SystemExit(f"the preparations wrote different files: {written}")
    Console().print(f"{len(written)} preparations wrote the same {len(written[0])} files")
    return {
        name: {key: statistics.median(run[key] for run in found) for key in found[0]} for name, found in runs.items()
    }


def interrupted(cache: Path, arguments: dict[str, Any], kills: int) -> None:
    """Prepare a text, killed a number of times.

    Args:
        cache: cache folder.
        arguments: of the preparation, by several processes.
        kills: number of SIGKILLs, after random numbers of parts. The first process and one of the others get them in
            turn.
    """
    chance = random.Random(0)
    parts = os.path.getsize(arguments["text"]) // PART_CHARACTERS
    for number, fraction in enumerate(sorted(chance.uniform(0, 0.95) for _ in range(kills))):
        process = start(PREPARE, cache, arguments)
        while finished_parts(cache) < fraction * parts and process.poll() is None:
            time.sleep(0.1)
        time.sleep(chance.uniform(2, 6))  # in the next parts or, if these were finished before, at the start
        others = psutil.Process(process.pid).children(recursive=True)
        victim = process.pid if number % 2 == 0 or not others else chance.choice(others).pid
        os.kill(victim, signal.SIGKILL)
        _, errors = process.communicate()
        if not process.returncode:
            raise SystemExit("a preparation had ended before it was killed")
        said = errors.strip().splitlines()[-1:]
        Console().print(f"kill {number + 1}: {finished_parts(cache)} parts are finished; {said}", highlight=False)
    measure(PREPARE, cache, arguments)


def finished_parts(cache: Path) -> int:
    """The number of parts that preparations in a cache have finished."""
    return len(list((cache / "shards").glob("*.parts/part-*.npy")))


def plan(folder: Path, documents: int, tokens: int) -> dict[str, dict[str, float]]:
    """Plan the rows of an epoch, and open the plan in another process; return the measurements of both.

    Args:
        folder: where the shard and the plan are written.
        documents: number of documents, whose lengths have a log-normal distribution, as those of web pages do.
        tokens: number of tokens.
    """
    lengths = np.random.default_rng(0).lognormal(0, 1, documents)
    ends = np.ceil(np.cumsum(lengths) * (tokens / lengths.sum())).astype(np.int64)
    np.save(folder / "ends.npy", ends)
    with (folder / "tokens.bin").open("wb") as file:
        file.truncate(2 * int(ends[-1]))
    given = {"ends": str(folder / "ends.npy"), "tokens": str(folder / "tokens.bin")}
    return {name: measure(PLAN, folder / "cache", given) for name in ("first process", "second process")}


def main() -> None:
    """Run the benchmark and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2, help="Size of the text; 0 omits it.")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--kills", type=int, default=0, help="Kill a preparation this many times; no race.")
    parser.add_argument("--documents", type=int, default=10_000_000, help="Documents of the plan; 0 omits it.")
    parser.add_argument("--tokens", type=int, default=10_000_000_000)
    parser.add_argument("--output", type=Path, help="Write the measurements to this file as JSON.")
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as name:
        if args.gigabytes:
            write_text(Path(name) / "text.jsonl", int(args.gigabytes * 1e9))
            train_tokenizer(stories(seed=0, count=5000), "bpe", 890).save_pretrained(Path(name) / "tokenizer")
            results["preparation"] = race(Path(name), args.rounds, args.kills)
        if args.documents:
            results["plan"] = plan(Path(name), args.documents, args.tokens)
    for title, rows in results.items():
        table = Table("", *next(iter(rows.values())), title=title)
        for row, numbers in rows.items():
            table.add_row(row, *(f"{number:,.2f}" for number in numbers.values()))
        Console().print(table)
    if args.output:
        args.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
