"""Limits on memory and disk: compressed files that expand too much, very long lines, and sizes of built-in data."""

import bz2
import gzip
import json
import lzma
import os
import zlib
from pathlib import Path

import pytest
import zstandard
from helpers.data import data_error
from helpers.processes import PRETRAIN, TINY_RUN, run_here, run_python

from scratch_gpt.data.readers.conversations import open_conversations
from scratch_gpt.data.readers.labelled import open_labelled
from scratch_gpt.data.readers.parallel import open_pairs
from scratch_gpt.data.readers.prompts import open_prompts
from scratch_gpt.data.readers.sources import open_source
from scratch_gpt.errors import ScratchError

MEMORY = r"""
import json, re, sys
from scratch_gpt.data.readers.sources import open_source
from scratch_gpt.errors import ScratchError

def peak():
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) / 1024

for number, path in enumerate(sys.argv[1:]):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # reset the peak
    before, error_text, characters = peak(), None, 0
    try:
        characters = sum(map(len, open_source(path).documents()))
    except ScratchError as error:
        error_text = str(error)
    if number:  # the first file includes the imports
        print(json.dumps({"mb": peak() - before, "error": error_text, "characters": characters}))
"""
needs_proc = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured with /proc")


def write_bomb(path: Path, begin: bytes, block: bytes, blocks: int) -> None:
    """Write a compressed file of a beginning and many equal blocks, without keeping them in memory."""
    if path.suffix == ".zst":
        compressor = zstandard.ZstdCompressor(level=19).compressobj()
    else:
        kinds = {
            ".gz": lambda: zlib.compressobj(9, wbits=31),
            ".bz2": bz2.BZ2Compressor,
            ".xz": lambda: lzma.LZMACompressor(preset=0),
        }
        compressor = kinds[path.suffix]()
    with path.open("wb") as file:
        file.write(compressor.compress(begin))
        for _ in range(blocks):
            file.write(compressor.compress(block))
        file.write(compressor.flush())


BOMBS = {
    "lines.txt.gz": (b"", b"a line\n" * 1000),
    "one_line.txt.xz": (b"", b"a" * 7000),
    "list.json.gz": (b'[{"text": "', b"a" * 7000),
    "line.jsonl.bz2": (b'{"text": "', b"a" * 7000),
    "wide.jsonl.xz": (b'{"text": "', b"a" * 6996 + "\U0001f600".encode()),  # four bytes for each character
    "cell.csv.gz": (b'text\n"', b"a" * 7000),
    "cells.csv.xz": (b"text\n", b'"",' * 2000),
}


LONG = 12 << 20
LINES = {"csv": ('text\n"', '"\n'), "json": ('[{"text": "', '"}]'), "jsonl": ('{"text": "', '"}\n')}


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict[str, dict]:
    """Read bombs and files of one line in one process; return the peak memory in MiB and the error of each."""
    folder = tmp_path_factory.mktemp("measured")
    for name, (begin, block) in BOMBS.items():
        write_bomb(folder / name, begin, block, 3_000)  # 18 MB or more
        assert (folder / name).stat().st_size < 100_000
    for kind, (start, end) in LINES.items():
        (folder / f"long.{kind}").write_text(start + "a" * LONG + end)
    (folder / "first.csv").write_text("text\na text\n")
    names = [*BOMBS, *(f"long.{kind}" for kind in LINES)]
    printed = run_python("-c", MEMORY, "first.csv", *names, cwd=folder, fresh=True).stdout
    return dict(zip(names, map(json.loads, printed.splitlines()), strict=True))


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("name", BOMBS)
def test_decompression_bomb_is_rejected_with_bounded_memory(name, measured):
    assert "times its size: if this is intended, decompress it first" in measured[name]["error"]
    assert measured[name]["mb"] < 100


def test_zstandard_bomb_is_rejected(tmp_path):
    write_bomb(tmp_path / "bomb.txt.zst", b"", b"a line\n" * 1000, 5_000)
    assert "decompress it first" in data_error(tmp_path / "bomb.txt.zst")


def test_highly_compressible_logs_are_read(tmp_path):
    path = tmp_path / "log.txt.gz"
    with gzip.open(path, "wt") as file:
        for number in range(400_000):
            file.write(f"2024-05-0{number // 100_000 + 1} 12:00:00 INFO the server said: request {number % 900} done\n")
    assert path.stat().st_size * 10 < 400_000 * 60
    assert sum(map(len, open_source(str(path)).documents())) > 20_000_000


def test_corrupt_compressed_file_is_rejected(tmp_path):
    for suffix, pack in ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)):
        content = bytearray(pack(os.urandom(3000).hex().encode()))
        content[len(content) // 2 : len(content) // 2 + 40] = b"\xff" * 40
        (tmp_path / f"t.txt{suffix}").write_bytes(content)
        assert "can't be read" in data_error(tmp_path / f"t.txt{suffix}")
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(b"a text")[:10] + b"\xff" * 40)  # an invalid block type
    assert "can't be read" in data_error(tmp_path / "t.txt.gz")


@needs_proc
@pytest.mark.parametrize("kind", LINES)
def test_memory_for_a_very_long_line_is_bounded(kind, measured):
    found = measured[f"long.{kind}"]
    assert (found["error"], found["characters"]) == (None, LONG)
    # The CSV reader needs four bytes per character of a cell, and doubles its buffer.
    assert found["mb"] < (10 if kind == "csv" else 4) * LONG / 2**20


SIZES = {
    "num_stories": lambda count: open_source("stories", num_stories=count),
    "num_pairs": lambda count: open_pairs("grammar", "de", "en", num_pairs=count),
    "num_prompts": lambda count: open_prompts("stories", num_prompts=count),
    "num_questions": lambda count: open_conversations("questions", num_questions=count),
    "num_texts": lambda count: open_labelled("languages", num_texts=count),
}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("count", [10**9, 10**30])
def test_sizes_of_built_in_data_are_limited(name, count):
    with pytest.raises(ScratchError, match=f"{name} is 1,000,000,000.*, want at most"):
        SIZES[name](count)
    with pytest.raises(ScratchError, match=f"{name} is -1, want at least"):
        SIZES[name](-1)


def test_too_many_stories_are_rejected_before_writing(tmp_path):
    options = ("--output_dir", str(tmp_path / "run"), "--num_stories", str(10**9), *TINY_RUN, "--max_steps", "1")
    result = run_here(PRETRAIN, *options, check=False)
    assert result.returncode == 2
    assert "num_stories is 1,000,000,000, want at most 10,000,000" in result.stderr
    assert not (tmp_path / "run").exists()
