"""Compressed text files are read exactly, or rejected."""

import bz2
import gzip
import lzma

import pytest
import zstandard
from helpers.processes import run_here

from scratch_gpt.data.readers.files import open_text

TEXT = "One day, Anna has two old lamps.\nä ö 漢\n" * 999
COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_text_is_read_exactly(suffix, tmp_path):
    """Files with one compressed stream, or several concatenated ones."""
    path = tmp_path / f"a.txt{suffix}"
    for streams in ((TEXT,), (TEXT, "", TEXT)):
        path.write_bytes(b"".join(COMPRESS[suffix](text.encode()) for text in streams))
        with open_text(path) as file:
            assert file.read() == "".join(streams)


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("kept", [-5, 40, 12])
def test_truncated_file_is_rejected(kept, suffix, tmp_path):
    """The readable beginning is not accepted as the whole file."""
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(COMPRESS[suffix](TEXT.encode())[:kept])
    result = run_here("scratch-gpt", "data", path.name, cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert f"{path.name} can't be read: " in result.stderr


@pytest.mark.parametrize("suffix", COMPRESS)
def test_file_that_is_not_compressed_is_rejected(suffix, tmp_path):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(b"One day, Anna has two old lamps. " * 9)
    result = run_here("scratch-gpt", "data", path.name, cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert f"{path.name} can't be read: " in result.stderr
