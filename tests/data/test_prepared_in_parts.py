"""Preparation in parts: the same files whatever the number of processes and of kills."""

import json
import os
import pickle
import random
import signal
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from scratch_gpt import train_tokenizer
from scratch_gpt.data.batching import part_processes, preparation
from scratch_gpt.data.batching.parts import Part
from scratch_gpt.data.batching.token_files import TokenFiles
from scratch_gpt.data.batching.token_shards import Shard, prepare_texts
from scratch_gpt.data.readers.sources import FileSource, Piece, Source, TableSource, open_source
from scratch_gpt.errors import ScratchError

WORDS = ["One", "day", "Anna", "had", "two", "old", "lamps", "near", "the", "mill", "—", "für", "3", "€."]

DOCUMENTS = 500


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Two texts: a table, and a file; and a tokenizer."""
    folder, chosen = tmp_path_factory.mktemp("corpora"), random.Random(0)
    texts = [" ".join(chosen.choices(WORDS, k=chosen.choice((3, 20, 40, 900)))) for _ in range(DOCUMENTS)]
    (folder / "table.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "file.txt").write_text("\n".join(texts[:200]))
    for number in range(3):
        (folder / "several").mkdir(exist_ok=True)
        (folder / "several" / f"{number}.txt").write_text(" ".join(texts[60 * number : 60 * number + 60]))
    tokenizer = train_tokenizer(texts[:200], "bpe", 300)
    return folder, tokenizer


def contents(cache: Path) -> dict[str, bytes]:
    """Return the files of the only entry of a cache; nothing else is in it."""
    (entry,) = (cache / "shards").iterdir()
    return {path.name: path.read_bytes() for path in entry.iterdir()}


def prepare_in(cache: Path, monkeypatch, source: Source, tokenizer, processes, part: int = 20_000, **options):
    """Prepare a source in a new cache with small parts and files; return its files, the shards and the lines said."""
    monkeypatch.setenv("SCRATCH_GPT_CACHE", str(cache))
    monkeypatch.setattr(preparation, "PART_CHARACTERS", part)
    monkeypatch.setattr(preparation, "FILE_TOKENS", 40_000)
    said: list[str] = []
    characters: list[int] = []
    shards, _ = prepare_texts(
        source, tokenizer, progress=characters.append, num_processes=processes, report=said.append, **options
    )
    return contents(cache), shards, said, sum(characters)


@pytest.mark.parametrize("name", ["table.jsonl", "file.txt", "several"])
def test_files_do_not_depend_on_the_number_of_processes(name, corpora, tmp_path, monkeypatch):
    folder, tokenizer = corpora
    found = {}
    for processes in (None, 1, 2, 3):
        source = open_source(str(folder / name))
        cache = tmp_path / f"{processes}"
        # With None, the text is one part and is tokenised by the threads of this process.
        part = 1 << 30 if processes is None else 20_000
        found[processes], shards, _, characters = prepare_in(cache, monkeypatch, source, tokenizer, processes, part)
        assert characters == sum(len(piece.text) for piece in source.pieces())
    assert found[1] == found[2] == found[3]
    train = b"".join(content for file, content in sorted(found[1].items()) if file.startswith("train-"))
    assert train == found[None]["train-00000.bin"]
    assert found[1]["train.ends.npy"] == found[None]["train.ends.npy"]
    several = [file for file in found[1] if file.startswith("train-")]
    assert len(several) > 1, "the test is of several files"
    begins = [0, *shards["train"].ends.tolist()]
    if name == "table.jsonl":  # the documents are those of the table, none of them lost
        texts = {json.loads(line)["text"] for line in (folder / name).read_text().splitlines()}
        for begin, end in pairwise(begins):
            assert shards["train"].tokens[end - 1] == tokenizer.eos_token_id
            assert tokenizer.decode(shards["train"].tokens[begin : end - 1]) in texts
        assert sum(len(shard.ends) for shard in shards.values()) == DOCUMENTS


def test_separate_validation_text_has_files_of_its_own(corpora, tmp_path, monkeypatch):
    folder, tokenizer = corpora
    table, file = (open_source(str(folder / name)) for name in ("table.jsonl", "file.txt"))
    _, shards, _, _ = prepare_in(tmp_path, monkeypatch, table, tokenizer, 2, validation_source=file)
    assert len(shards["train"].ends) == DOCUMENTS
    assert tokenizer.decode(np.asarray(shards["validation"].tokens)) == (folder / "file.txt").read_text()


def start_preparation(source: Source, tokenizer) -> int:
    """Start a preparation in a new process, with a group of its own for the processes that it starts; return its id."""
    child = os.fork()
    if child:
        with suppress(PermissionError, ProcessLookupError):  # the child has done it
            os.setpgid(child, child)
        return child
    try:
        os.setpgid(0, 0)
        prepare_texts(source, tokenizer, num_processes=2)
    finally:
        os._exit(0)


def test_files_after_ten_kills_are_those_of_an_undisturbed_run(corpora, tmp_path, monkeypatch):
    """The preparation and its processes are killed at random times; each run keeps the parts of those before it."""
    folder, tokenizer = corpora
    source = open_source(str(folder / "table.jsonl"))
    whole, _, _, _ = prepare_in(tmp_path / "whole", monkeypatch, source, tokenizer, 1, part=10_000)
    cache = tmp_path / "killed"
    monkeypatch.setenv("SCRATCH_GPT_CACHE", str(cache))
    chosen, finished = random.Random(1), []
    for _ in range(10):
        process, most = start_preparation(source, tokenizer), len(finished and finished[-1]) + chosen.choice((1, 2, 3))
        while len(list(cache.glob("shards/*/part-*.npy"))) < most:
            time.sleep(0.001)
        time.sleep(chosen.uniform(0, 0.01))
        os.killpg(process, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
        finished.append(list(cache.glob("shards/*/part-*.npy")))
        assert not list(cache.glob("shards/*/meta.json")), "the kill came too late"
    files, _, said, _ = prepare_in(cache, monkeypatch, source, tokenizer, 2, part=10_000)
    assert files == whole
    assert int(said[-1].split()[0]) >= len(finished[-1]) > 10, said


@pytest.mark.parametrize("killed_while", ["sending", "waiting"])
def test_a_process_ends_quietly_after_the_one_that_sends_to_it(killed_while, corpora, tmp_path, capfd):
    settings = preparation.Preparation(tmp_path, corpora[1], print, print).settings
    process = part_processes._start(settings)
    process.stdout.close()
    part = pickle.dumps(tuple(Part("all", 0, [b"One day"], [True], 7)))
    process.stdin.write(part[:-3] if killed_while == "sending" else part)
    process.stdin.close()
    process.wait()
    assert capfd.readouterr().err == ""
    assert (tmp_path / "part-00000.npy").exists() == (killed_while == "waiting")


def interrupt_after(count: int):
    """Return a function that interrupts the preparation when it is called for the last of `count` times."""
    calls = []

    def progress(characters: int) -> None:
        calls.append(characters)
        if len(calls) == count:
            raise KeyboardInterrupt

    return progress


def test_finished_parts_are_not_tokenised_again(corpora, tmp_path, monkeypatch):
    folder, tokenizer = corpora
    monkeypatch.setenv("SCRATCH_GPT_CACHE", str(tmp_path))
    monkeypatch.setattr(preparation, "PART_CHARACTERS", 20_000)
    monkeypatch.setattr(preparation, "FILE_TOKENS", 40_000)
    source = open_source(str(folder / "table.jsonl"))
    with pytest.raises(KeyboardInterrupt):
        prepare_texts(source, tokenizer, progress=interrupt_after(9), num_processes=1)
    (staging,) = (tmp_path / "shards").iterdir()
    finished = {path: path.stat().st_mtime_ns for path in staging.glob("part-*.npy")}
    assert len(finished) == 8 or len(finished) == 9
    damaged, other = sorted(finished)[1:3]
    damaged.with_suffix(".bin").write_bytes(b"\1\0" * 5)  # such as by a full disk
    other.write_bytes(other.read_bytes()[:-8])
    written: list[int] = []
    original = part_processes.PartTokeniser.write

    def write(self, part, progress):
        written.append(part.number)
        original(self, part, progress)

    monkeypatch.setattr(part_processes.PartTokeniser, "write", write)
    said: list[str] = []
    prepare_texts(source, tokenizer, num_processes=1, report=said.append)
    assert written[:2] == [1, 2], "the damaged ones"
    assert written[2:] == list(range(len(finished), written[-1] + 1))
    assert any(line.startswith(f"{len(finished) - 2} of the {written[-1] + 1} parts") for line in said), said
    assert contents(tmp_path) == prepare_in(tmp_path / "new", monkeypatch, source, tokenizer, 1)[0]


def test_parts_of_another_text_are_not_used(corpora, tmp_path, monkeypatch):
    """A part counts as finished only if it has the hash of its text, so that a changed order can't mix them."""
    folder, tokenizer = corpora
    source = open_source(str(folder / "table.jsonl"))
    monkeypatch.setenv("SCRATCH_GPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(preparation, "PART_CHARACTERS", 10_000)
    with pytest.raises(KeyboardInterrupt):
        prepare_texts(source, tokenizer, progress=interrupt_after(9), num_processes=1)
    expected = prepare_in(tmp_path / "new", monkeypatch, source, tokenizer, 1)[0]
    assert prepare_in(tmp_path / "cache", monkeypatch, source, tokenizer, 1)[0] == expected  # with parts of 20,000


def test_process_that_dies_is_reported_and_its_work_is_kept(corpora, tmp_path, monkeypatch):
    folder, tokenizer = corpora
    monkeypatch.setenv("SCRATCH_GPT_CACHE", str(tmp_path))
    monkeypatch.setattr(preparation, "PART_CHARACTERS", 20_000)
    started = []
    start = part_processes._start
    monkeypatch.setattr(part_processes, "_start", lambda settings: started.append(start(settings)) or started[-1])

    def progress(characters: int) -> None:
        started[0].kill()

    source = open_source(str(folder / "table.jsonl"))
    with pytest.raises(ScratchError, match=r"exit code -9: run the command again.*--data_processes"):
        prepare_texts(source, tokenizer, progress=progress, num_processes=1 + 1)
    assert all(process.poll() is not None for process in started)
    assert list((tmp_path / "shards").glob("*.parts/part-*.npy"))


def test_error_of_the_disk_in_a_process_is_raised(corpora, tmp_path, monkeypatch):
    folder, tokenizer = corpora
    monkeypatch.setenv("SCRATCH_GPT_CACHE", str(tmp_path))
    monkeypatch.setattr(preparation, "PART_CHARACTERS", 20_000)
    start = part_processes._start
    missing = str(tmp_path / "missing")
    monkeypatch.setattr(part_processes, "_start", lambda settings: start({**settings, "folder": missing}))
    with pytest.raises(FileNotFoundError, match="missing"):
        prepare_texts(open_source(str(folder / "table.jsonl")), tokenizer, num_processes=2)


class OnePass(TableSource):
    """A table that counts how often its rows are read, as a stream of the Hub would be."""

    passes = 0

    def pieces(self):
        self.passes += 1
        return super().pieces()


def test_table_is_read_once(corpora, tmp_path, monkeypatch):
    folder, tokenizer = corpora
    source = open_source(str(folder / "table.jsonl"))
    source.__class__ = OnePass
    found, _, _, _ = prepare_in(tmp_path, monkeypatch, source, tokenizer, 1)
    assert source.passes == 1
    assert json.loads(found["meta.json"])["reading"]["prompt"]
    assert isinstance(open_source(str(folder / "several")), FileSource)


def test_parts_in_memory_are_bounded(corpora, tmp_path, monkeypatch):
    """The text is not read ahead of the processes by more than a few parts."""
    folder, tokenizer = corpora
    source = open_source(str(folder / "table.jsonl"))
    pieces, read, ahead = list(source.pieces()), [0], []

    def counted():
        for piece in pieces:
            read[0] += len(piece.text)
            yield piece

    source.pieces = counted
    monkeypatch.setenv("SCRATCH_GPT_CACHE", str(tmp_path))
    monkeypatch.setattr(preparation, "PART_CHARACTERS", 20_000)
    done = [0]

    def progress(characters: int) -> None:
        ahead.append(read[0] - done[0])
        done[0] += characters

    prepare_texts(source, tokenizer, progress=progress, num_processes=2)
    assert done[0] == read[0]
    longest = max(len(piece.text) for piece in pieces)
    assert max(ahead) <= (2 * part_processes.QUEUED + 2) * (20_000 + longest)
    assert sum(len(piece.text) for piece in pieces) > 3 * max(ahead)


def test_tokens_in_several_files_are_indexed_like_one_array():
    whole = np.arange(100, dtype=np.uint16)
    files = TokenFiles([whole[:30], whole[30:31], whole[31:80], whole[80:]])
    assert len(files) == 100
    assert files.dtype == np.uint16
    for index in (
        slice(None), slice(3, 9), slice(29, 32), slice(0, 100), slice(80, 81), slice(-20, None), slice(50, 50),
        slice(90, 10), slice(5, 95, 7), slice(95, 5, -3), slice(None, None, -1), 0, 30, 99, -1, -100,
        np.asarray([0, 99, 30, -1, 31]), np.asarray([[5, 79], [80, 29]]), whole % 3 == 0,
    ):  # fmt: skip
        assert np.array_equal(files[index], whole[index]), index
    for index in (100, -101):
        with pytest.raises(IndexError):
            files[index]
    assert files.tolist() == list(files) == whole.tolist()
    assert np.array_equal(np.asarray(files), whole)
    assert files.astype(np.int64).dtype == np.int64
    assert files[3:9].base is not None, "a slice within one file is no copy"
    shard = Shard(files, np.asarray([100]), 100, 100)
    assert len(shard.tokens) == 100


def test_pieces_of_a_part_end_documents_across_parts(tmp_path, monkeypatch):
    """A document that is longer than a part has its tokens, unknown ones included, in several."""

    class Long(TableSource):
        def __init__(self):
            pass

        origin = open_source("stories", num_stories=2).origin
        count = open_source("stories", num_stories=2).count

        def pieces(self):
            for _ in range(3):
                yield from [Piece("ab?", False)] * 10 + [Piece("a", True)]

    tokenizer = train_tokenizer(["ab"], "char")
    found = {}
    for part in (1, 7, 1000):
        cache = tmp_path / str(part)
        _, shards, _, _ = prepare_in(cache, monkeypatch, Long(), tokenizer, 1, part, validation_fraction=0.4)
        found[part] = {
            split: (shard.tokens.tolist(), shard.ends.tolist(), shard.unknown, shard.characters, shard.utf8_bytes)
            for split, shard in shards.items()
        }
    assert found[1] == found[7] == found[1000]
    total = sum(unknown for _, _, unknown, _, _ in found[1].values())
    assert total == 30
