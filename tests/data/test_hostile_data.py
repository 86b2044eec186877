"""Data from strangers: whatever a file holds is text, kept to the last character, or refused in one line."""

import bz2
import gzip
import json
import lzma
import os
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from helpers.data import at_most, lines, refused, shown, texts_of
from helpers.processes import PRETRAIN, TINY_RUN, run_here, run_python

from scratch_gpt import train_tokenizer
from scratch_gpt.data.batching.token_shards import cache_directory, prepare
from scratch_gpt.data.readers.conversations import open_conversations
from scratch_gpt.data.readers.formats import arrow_rows, read_columns
from scratch_gpt.data.readers.labelled import open_labelled
from scratch_gpt.data.readers.parallel import open_pairs
from scratch_gpt.data.readers.prompts import open_prompts
from scratch_gpt.data.readers.sources import open_source
from scratch_gpt.errors import ScratchError

WORDS = "a few words to learn from, said twice. "
KEPT = {
    "byte-order mark": ("\ufeff" + WORDS * 9).encode(),
    "CRLF": (WORDS + "\r\n").encode() * 9,
    "NUL": (WORDS + "\x00").encode() * 9,
    "right to left": ("שלום עולם " * 40).encode(),
    "combining": ("e\u0301 a\u0308 ❤\ufe0f 👩‍👩‍👧 " * 20).encode(),
    "special tokens": ("<bos><eos> <pad> <mask><unk> " * 20).encode(),
    "no white space": ("x" * 1_000_000).encode(),
    "white space only": b" \n\t" * 99,
    "one line": (WORDS * 50_000).encode(),
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([WORDS * 3], "bpe", 280)


@pytest.mark.parametrize("case", KEPT)
def test_every_character_comes_through(case, tmp_path, tokenizer):
    path = tmp_path / "t.txt"
    path.write_bytes(KEPT[case])
    started = time.monotonic()
    shard = prepare(open_source(str(path)), tokenizer, validation_fraction=1.0, splits=("validation",))["validation"]
    tokens = [token for token in np.asarray(shard.tokens).tolist() if token not in tokenizer.all_special_ids]
    assert len(shard.tokens) - len(tokens) <= 1  # text is never control: at most the end of the document is
    expected = KEPT[case].decode("utf-8-sig").replace("\r\n", "\n")
    assert tokenizer.decode(tokens, skip_special_tokens=False) == expected
    assert time.monotonic() - started < 60


REFUSED = {
    "empty": (b"", "is empty"),
    "one character": (b"a", "leaves no text for train"),
    "binary": (bytes(range(256)) * 20, "is not UTF-8 text"),
    "Latin-1": ("Größe ".encode("latin-1") * 50, "is not UTF-8 text"),
    "UTF-16": (WORDS.encode("utf-16") * 9, "is not UTF-8 text"),
    "cut in a character": (WORDS.encode() * 50 + "é".encode()[:1], "is not UTF-8 text"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_text_is_refused_in_one_line(case, tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes(REFUSED[case][0])
    options = ("--output_dir", str(tmp_path / "run"), "--dataset", str(path), *TINY_RUN, "--max_steps", "1")
    result = run_here(PRETRAIN, *options, check=False)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert REFUSED[case][1] in last
    assert not (tmp_path / "run").exists()


def test_many_tiny_documents(tmp_path, tokenizer):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"text": f"{number}"}) + "\n" for number in range(100_000)))
    shards = prepare(open_source(str(path)), tokenizer)
    assert sum(len(shard.ends) for shard in shards.values()) == 100_000


# --- images and the like, whose cells name files and addresses ---


@pytest.fixture
def images(tmp_path):
    """Cells of an image column that nobody may open: a named pipe, and an address at which requests are counted."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.mkfifo(tmp_path / "pipe.png")
    paths = [str(tmp_path / "pipe.png"), f"http://127.0.0.1:{server.server_port}/a.png", str(tmp_path / "none.png")]
    with at_most(60):
        yield paths
    server.shutdown()
    server.server_close()
    assert not requests


def with_images(paths: list[str]) -> pa.Table:
    """Rows with declared columns of images: alone, in a list, and in a struct."""
    cells = [{"bytes": None, "path": path} for path in paths]
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "image": datasets.Image(),
            "many": datasets.List(datasets.Image()),
            "inner": {"audio": datasets.Image()},
        }
    )
    rows = {"text": ["one", "two", "three"], "label": [0, 1, 0], "image": cells}
    rows |= {"many": [[cell] for cell in cells], "inner": [{"audio": cell} for cell in cells]}
    return pa.table(rows, schema=features.arrow_schema)


def write_columns(path: Path, table: pa.Table) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        opened = pa.ipc.new_stream if "stream" in path.name else pa.ipc.new_file
        with pa.OSFile(str(path), "wb") as file, opened(file, table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize("name", ["t.parquet", "stream.arrow", "file.arrow"])
def test_images_in_a_table_are_never_opened(name, tmp_path, images):
    path = write_columns(tmp_path / name, with_images(images))
    found = shown(path, "--for", "classification", "--label_column", "label")
    assert (found["rows_read"], found["labels"]) == (3, {"no": 2, "yes": 1})
    assert texts_of(path) == ["one", "two", "three"]
    assert "'image' is bytes, want text" in refused(path, "--text_column", "image")
    assert "has no column 'inner.audio'" in refused(path, "--text_column", "inner.audio")


@pytest.mark.parametrize("streaming", [False, True])
def test_images_of_a_dataset_on_the_hub_are_never_opened(streaming, tmp_path, images):
    path = write_columns(tmp_path / "t.parquet", with_images(images))
    rows = datasets.load_dataset(
        "parquet", data_files=str(path), split="train", streaming=streaming, cache_dir=tmp_path / "cache"
    )
    read = lambda columns: iter(rows if columns is None else rows.select_columns(columns))  # noqa: E731
    for columns in (None, ["text"], ["image"], ["text", "many"]):
        found = list(read_columns(rows.column_names, rows.features, columns, read))
        assert len(found) == 3
        assert {value for row in found for name, value in row.items() if name in ("image", "many", "inner")} <= {b""}


@pytest.mark.parametrize("name", ["t.parquet", "stream.arrow", "file.arrow"])
def test_columns_that_are_not_read_are_not_decoded(name, tmp_path):
    """The other column is damaged: to decode it is an error."""
    other = [b"0123456789" * 1000 + bytes([i]) for i in range(5)]
    table = pa.table({"text": [f"text {i}" for i in range(5)], "other": other})
    path = tmp_path / name
    if name == "t.parquet":
        pq.write_table(table, path, compression={"text": "none", "other": "gzip"}, use_dictionary=False)
    else:
        opened = pa.ipc.new_stream if "stream" in name else pa.ipc.new_file
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.OSFile(str(path), "wb") as file, opened(file, table.schema, options=options) as writer:
            writer.write_table(table)
    content = path.read_bytes()
    magic = b"\x1f\x8b" if name == "t.parquet" else b"\x28\xb5\x2f\xfd"
    at = content.rindex(magic)  # that of the other column comes last
    path.write_bytes(content[: at + 8] + b"\xff" * 16 + content[at + 24 :])
    with pytest.raises(OSError, match=r"."):
        list(arrow_rows(path))
    assert [row["text"] for row in arrow_rows(path, ["text"])] == [f"text {i}" for i in range(5)]


# --- files that take everything ---

MEMORY = r"""
import json, re, sys
from scratch_gpt.data.readers.sources import open_source
from scratch_gpt.errors import ScratchError

def peak():
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) / 1024

for number, path in enumerate(sys.argv[1:]):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak
    before, said, characters = peak(), None, 0
    try:
        characters = sum(map(len, open_source(path).documents()))
    except ScratchError as error:
        said = str(error)
    if number:  # the first one pays for the imports
        print(json.dumps({"mb": peak() - before, "said": said, "characters": characters}))
"""
needs_proc = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured by /proc")


def write_bomb(path: Path, begin: bytes, block: bytes, blocks: int) -> None:
    """Compress a beginning and many equal blocks, without holding them in memory."""
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
    """How much memory, in MiB, it takes to read bombs and files of one line, and what is said; in one process."""
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


@needs_proc
@pytest.mark.parametrize("name", BOMBS)
def test_a_compressed_bomb_is_refused_after_a_bounded_amount(name, measured):
    assert "times its size: if this is intended, decompress it first" in measured[name]["said"]
    assert measured[name]["mb"] < 100


def test_a_zstandard_bomb_is_refused(tmp_path):
    write_bomb(tmp_path / "bomb.txt.zst", b"", b"a line\n" * 1000, 5_000)
    assert "unpack it first" in refused(tmp_path / "bomb.txt.zst")


def test_logs_that_compress_well_are_read(tmp_path):
    path = tmp_path / "log.txt.gz"
    with gzip.open(path, "wt") as file:
        for number in range(400_000):
            file.write(f"2024-05-0{number // 100_000 + 1} 12:00:00 INFO the server said: request {number % 900} done\n")
    assert path.stat().st_size * 10 < 400_000 * 60
    assert sum(map(len, open_source(str(path)).documents())) > 20_000_000


def test_a_corrupt_compressed_file_is_refused(tmp_path):
    for suffix, pack in ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)):
        content = bytearray(pack(os.urandom(3000).hex().encode()))
        content[len(content) // 2 : len(content) // 2 + 40] = b"\xff" * 40
        (tmp_path / f"t.txt{suffix}").write_bytes(content)
        assert "can't be read" in refused(tmp_path / f"t.txt{suffix}")
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(b"a text")[:10] + b"\xff" * 40)  # no such kind of block
    assert "can't be read" in refused(tmp_path / "t.txt.gz")


@needs_proc
@pytest.mark.parametrize("kind", LINES)
def test_an_absurd_line_takes_a_small_multiple_of_the_file(kind, measured):
    found = measured[f"long.{kind}"]
    assert (found["said"], found["characters"]) == (None, LONG)
    # The reader of CSV files holds four bytes for each character of a cell, and doubles its buffer.
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
def test_absurd_sizes_of_built_in_data_are_refused(name, count):
    with pytest.raises(ScratchError, match=f"{name} is 1,000,000,000.*, want at most"):
        SIZES[name](count)
    with pytest.raises(ScratchError, match=f"{name} is -1, want at least"):
        SIZES[name](-1)


def test_an_absurd_number_of_stories_writes_nothing(tmp_path):
    options = ("--output_dir", str(tmp_path / "run"), "--num_stories", str(10**9), *TINY_RUN, "--max_steps", "1")
    result = run_here(PRETRAIN, *options, check=False)
    assert result.returncode == 2
    assert "num_stories is 1,000,000,000, want at most 10,000,000" in result.stderr
    assert not (tmp_path / "run").exists()


# --- a cache that others can write to ---


@pytest.fixture
def prepared(tmp_path, tokenizer, monkeypatch):
    """Prepare a text, and return a function that does so again, and the entry of the cache."""
    monkeypatch.setenv("SCRATCH_GPT_CACHE", str(tmp_path / "own" / "cache"))
    (tmp_path / "t.txt").write_text(WORDS * 20)

    def again():
        shards = prepare(open_source(str(tmp_path / "t.txt")), tokenizer)
        return {split: (np.asarray(shard.tokens).tolist(), shard.ends.tolist()) for split, shard in shards.items()}

    expected = again()
    (entry,) = (cache_directory() / "shards").iterdir()
    return again, entry, expected


def test_the_cache_is_its_owners_alone(prepared):
    for folder in (cache_directory(), cache_directory() / "shards", prepared[1]):
        assert folder.stat().st_mode & 0o777 == 0o700


def change_meta(**fields):
    def change(entry):
        meta = json.loads((entry / "meta.json").read_text())
        for name, value in fields.items():
            place = meta["reading"] if name in meta["reading"] else meta["train"]
            place[name] = value
        (entry / "meta.json").write_text(json.dumps(meta))

    return change


def change_ends(ends, **options):
    return lambda entry: np.save(entry / "train.ends.npy", ends, **options)


def link_out(name):
    def change(entry):
        (entry.parents[3] / "private").write_bytes((entry / name).read_bytes())
        (entry / name).unlink()
        (entry / name).symlink_to(entry.parents[3] / "private")

    return change


DAMAGE = {
    "pointers": change_meta(dtype="O"),
    "void": change_meta(dtype="V8"),
    "signed": change_meta(dtype="<i2"),
    "swapped": change_meta(dtype=">u2"),
    "fields": change_meta(dtype=[["a", "<u2"]]),
    "size": change_meta(characters="many"),
    "negative size": change_meta(unknown=-5),
    "reading": change_meta(count={"read": "x", "skipped": {}, "first": {}, "harmless": []}),
    "skipped": change_meta(count={"read": 1, "skipped": {"x": "y"}, "first": {}, "harmless": []}),
    "documents": change_meta(documents=5),
    "prompt": change_meta(prompt=["x"]),
    "no JSON": lambda entry: (entry / "meta.json").write_text("["),
    "other JSON": lambda entry: (entry / "meta.json").write_text("[]"),
    "depth": lambda entry: (entry / "meta.json").write_text("[" * 100_000),
    "ends of objects": change_ends(np.asarray([5], dtype=object)),
    "ends of floats": change_ends(np.asarray([5.0])),
    "ends of two dimensions": change_ends(np.asarray([[5]])),
    "ends behind the tokens": change_ends(np.asarray([10**12])),
    "ends before the tokens": change_ends(np.asarray([-5, 5])),
    "ends backwards": lambda entry: np.save(
        entry / "train.ends.npy", np.asarray([9, 5, np.load(entry / "train.ends.npy")[-1]])
    ),
    "no ends": change_ends(np.asarray([], dtype=np.int64)),
    "ends missing": lambda entry: (entry / "train.ends.npy").unlink(),
    "more ends than memory": lambda entry: (entry / "train.ends.npy").write_bytes(
        (entry / "train.ends.npy").read_bytes().replace(b"(1,)", b"(%d,)" % 10**13, 1)
    ),
    "tokens missing": lambda entry: (entry / "train.bin").unlink(),
    "tokens cut": lambda entry: os.truncate(entry / "train.bin", 7),
    "tokens elsewhere": link_out("train.bin"),
    "meta elsewhere": link_out("meta.json"),
    "pipe": lambda entry: ((entry / "meta.json").unlink(), os.mkfifo(entry / "meta.json")),
    "file": lambda entry: ([path.unlink() for path in entry.iterdir()], entry.rmdir(), entry.write_text("x")),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_entry_of_the_cache_is_prepared_anew(case, prepared):
    again, entry, expected = prepared
    DAMAGE[case](entry)
    assert again() == expected
    meta = json.loads((entry / "meta.json").read_text())
    assert meta["train"]["dtype"] in ("<u2", "<u4")
    assert not any(path.is_symlink() for path in entry.iterdir())
    written = (entry / "meta.json").stat().st_mtime_ns
    assert again() == expected
    assert (entry / "meta.json").stat().st_mtime_ns == written  # and read from then on


def test_an_entry_that_is_a_link_is_replaced_and_not_written_through(prepared, tmp_path):
    again, entry, expected = prepared
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "train.bin").write_bytes(b"\xff" * 100)
    assert again() == expected
    assert not entry.is_symlink()
    assert (tmp_path / "elsewhere" / "train.bin").read_bytes() == b"\xff" * 100


# --- names ---

ODD = "a\x1b[31m\x9b2J[bold]x[red]\u202e\x07"


def test_control_characters_in_names_never_reach_the_terminal(tmp_path):
    folder = tmp_path / ODD
    folder.mkdir()
    (folder / f"{ODD}.jsonl").write_text(
        lines({"text": "one", f"label{ODD}": ODD}, {"text": "two", f"label{ODD}": "b"})
    )
    (folder / f"{ODD}.bin").write_text("x")
    for arguments in ((), ("--for", "classification", "--label_column", f"label{ODD}", "--validation_fraction", "0.5")):
        for as_json in ((), ("--json",)):
            result = run_here("scratch-gpt", "data", str(folder), *arguments, *as_json)
            assert not set("\x1b\x9b\u202e\x07\r") & set(result.stdout + result.stderr)
            if as_json:
                assert json.loads(result.stdout)["files"] == [str(folder / f"{ODD}.jsonl")]
            else:
                assert "\\x1b[31m" in result.stdout
                assert "[bold]x[red]" in result.stdout
