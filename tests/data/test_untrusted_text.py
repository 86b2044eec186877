"""Text files from untrusted sources: every character is kept as text, or the file is rejected with one line."""

import json
import time

import numpy as np
import pytest
from helpers.data import lines
from helpers.processes import PRETRAIN, TINY_RUN, run_here

from scratch_gpt import train_tokenizer
from scratch_gpt.data.batching.token_shards import prepare
from scratch_gpt.data.readers.sources import open_source

WORDS = "a few words to learn from, said twice. "
KEPT = {
    "byte-order mark": ("\ufeff" + WORDS * 9).encode(),
    "CRLF": (WORDS + "\r\n").encode() * 9,
    "NUL": (WORDS + "\x00").encode() * 9,
    "right to left": ("שלום עולם " * 40).encode(),
    "combining": ("e\u0301 a\u0308 ❤\ufe0f 👩‍👩‍👧 " * 20).encode(),
    "special tokens": ("<bos><eos> <pad> <mask><unk> " * 20).encode(),
    "no white space": ("x" * 1_000_000).encode(),
    "mostly white space": b" \n\t" * 99 + b"a",
    "one line": (WORDS * 50_000).encode(),
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([WORDS * 3], "bpe", 280)


@pytest.mark.slow
@pytest.mark.parametrize("case", KEPT)
def test_every_character_is_kept(case, tmp_path, tokenizer):
    path = tmp_path / "t.txt"
    path.write_bytes(KEPT[case])
    started = time.monotonic()
    shard = prepare(open_source(str(path)), tokenizer, validation_fraction=1.0, splits=("validation",))["validation"]
    tokens = [token for token in np.asarray(shard.tokens).tolist() if token not in tokenizer.all_special_ids]
    assert len(shard.tokens) - len(tokens) <= 1  # only the end of the document is a special token
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
def test_invalid_text_is_rejected_with_one_line(case, tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes(REFUSED[case][0])
    options = ("--output_dir", str(tmp_path / "run"), "--dataset", str(path), *TINY_RUN, "--max_steps", "1")
    result = run_here(PRETRAIN, *options, check=False)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert REFUSED[case][1] in last
    assert not (tmp_path / "run").exists()


def test_many_small_documents(tmp_path, tokenizer):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"text": f"{number}"}) + "\n" for number in range(100_000)))
    shards = prepare(open_source(str(path)), tokenizer)
    assert sum(len(shard.ends) for shard in shards.values()) == 100_000


ODD = "a\x1b[31m\x9b2J[bold]x[red]\u202e\x07"


def test_control_characters_in_names_are_escaped(tmp_path):
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
