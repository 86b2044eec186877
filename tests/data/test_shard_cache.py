"""The cache of tokenised text is untrusted: invalid entries are detected and recomputed."""

import json
import os

import numpy as np
import pytest

from scratch_gpt import train_tokenizer
from scratch_gpt.cache import cache_directory
from scratch_gpt.data.batching.token_shards import prepare
from scratch_gpt.data.readers.sources import open_source

WORDS = "a few words to learn from, said twice. "


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([WORDS * 3], "bpe", 280)


@pytest.fixture
def prepared(tmp_path, tokenizer, monkeypatch):
    """Tokenise a text; return a function that repeats it, the cache entry, and the result."""
    monkeypatch.setenv("SCRATCH_GPT_CACHE", str(tmp_path / "own" / "cache"))
    (tmp_path / "t.txt").write_text(WORDS * 20)

    def again():
        shards = prepare(open_source(str(tmp_path / "t.txt")), tokenizer)
        return {split: (np.asarray(shard.tokens).tolist(), shard.ends.tolist()) for split, shard in shards.items()}

    expected = again()
    (entry,) = (cache_directory() / "shards").iterdir()
    return again, entry, expected


def test_cache_is_only_accessible_to_its_owner(prepared):
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


CORRUPTIONS = {
    "object dtype": change_meta(dtype="O"),
    "void dtype": change_meta(dtype="V8"),
    "signed dtype": change_meta(dtype="<i2"),
    "big-endian dtype": change_meta(dtype=">u2"),
    "structured dtype": change_meta(dtype=[["a", "<u2"]]),
    "size": change_meta(characters="many"),
    "negative size": change_meta(unknown=-5),
    "reading": change_meta(count={"read": "x", "skipped": {}, "first": {}, "harmless": []}),
    "skipped": change_meta(count={"read": 1, "skipped": {"x": "y"}, "first": {}, "harmless": []}),
    "documents": change_meta(documents=5),
    "prompt": change_meta(prompt=["x"]),
    "not JSON": lambda entry: (entry / "meta.json").write_text("["),
    "other JSON": lambda entry: (entry / "meta.json").write_text("[]"),
    "depth": lambda entry: (entry / "meta.json").write_text("[" * 100_000),
    "ends of objects": change_ends(np.asarray([5], dtype=object)),
    "ends of floats": change_ends(np.asarray([5.0])),
    "ends of two dimensions": change_ends(np.asarray([[5]])),
    "ends after the tokens": change_ends(np.asarray([10**12])),
    "ends before the tokens": change_ends(np.asarray([-5, 5])),
    "unsorted ends": lambda entry: np.save(
        entry / "train.ends.npy", np.asarray([9, 5, np.load(entry / "train.ends.npy")[-1]])
    ),
    "no ends": change_ends(np.asarray([], dtype=np.int64)),
    "ends missing": lambda entry: (entry / "train.ends.npy").unlink(),
    "more ends than memory": lambda entry: (entry / "train.ends.npy").write_bytes(
        (entry / "train.ends.npy").read_bytes().replace(b"(1,)", b"(%d,)" % 10**13, 1)
    ),
    "tokens missing": lambda entry: (entry / "train-00000.bin").unlink(),
    "truncated tokens": lambda entry: os.truncate(entry / "train-00000.bin", 7),
    "linked tokens": link_out("train-00000.bin"),
    "linked meta": link_out("meta.json"),
    "pipe": lambda entry: ((entry / "meta.json").unlink(), os.mkfifo(entry / "meta.json")),
    "file": lambda entry: ([path.unlink() for path in entry.iterdir()], entry.rmdir(), entry.write_text("x")),
}


@pytest.mark.parametrize("case", CORRUPTIONS)
def test_corrupt_cache_entry_is_replaced(case, prepared):
    again, entry, expected = prepared
    CORRUPTIONS[case](entry)
    assert again() == expected
    meta = json.loads((entry / "meta.json").read_text())
    assert meta["train"]["dtype"] in ("<u2", "<u4")
    assert not any(path.is_symlink() for path in entry.iterdir())
    written = (entry / "meta.json").stat().st_mtime_ns
    assert again() == expected
    assert (entry / "meta.json").stat().st_mtime_ns == written  # the new entry is valid


def test_linked_cache_entry_is_replaced(prepared, tmp_path):
    again, entry, expected = prepared
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "train-00000.bin").write_bytes(b"\xff" * 100)
    assert again() == expected
    assert not entry.is_symlink()
    assert (tmp_path / "elsewhere" / "train-00000.bin").read_bytes() == b"\xff" * 100
