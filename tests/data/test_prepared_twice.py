"""Two processes that tokenise the same data at the same time, and errors of the disk."""

import shutil

import numpy as np
import pytest

from scratch_gpt import cache, train_tokenizer
from scratch_gpt.data.batching.token_shards import prepare_texts
from scratch_gpt.data.readers.sources import open_source


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """Return a function that tokenises a text, with a new cache."""
    monkeypatch.setenv("SCRATCH_GPT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("One day, Anna has two old lamps.\n" * 99)
    tokenizer = train_tokenizer(["One day, Anna has two old lamps.\n"], "char")
    return lambda progress=None: prepare_texts(
        open_source(str(tmp_path / "text.txt")), tokenizer, 0.1, progress=progress
    )


def test_slower_process_uses_the_entry_of_the_faster_one(prepared, tmp_path):
    faster = []

    def progress(characters: int) -> None:
        if not faster:
            faster.append(None)
            faster[0] = prepared()

    slower, _ = prepared(progress)
    assert faster[0] is not None
    for split in ("train", "validation"):
        assert np.array_equal(slower[split].tokens, faster[0][0][split].tokens)
    assert len(list((tmp_path / "cache" / "shards").iterdir())) == 1  # no files of the slower one remain


def test_disk_error_is_raised_and_leaves_no_files(prepared, tmp_path):
    def progress(characters: int) -> None:
        for staging in (tmp_path / "cache" / "shards").iterdir():
            shutil.rmtree(staging)

    with pytest.raises(OSError, match="No such file"):
        prepared(progress)
    assert list((tmp_path / "cache" / "shards").iterdir()) == []
    assert cache.cache_directory() == tmp_path / "cache"
