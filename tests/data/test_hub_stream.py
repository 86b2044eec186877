"""Preparation of a streamed Hub dataset, from a local Hub server."""

import hashlib
import json
from itertools import cycle, islice

import pytest
from helpers.hub import hub_environment
from helpers.hub_repository import Repository
from helpers.loopback_hub import running_hub
from helpers.processes import PROJECT, run_python

from scratch_gpt import train_tokenizer
from scratch_gpt.data.batching.token_shards import Shard, prepare
from scratch_gpt.data.corpora.stories import stories
from scratch_gpt.data.readers.sources import open_source

ROWS = 64_000
BEGINNING = 16 << 20  # bytes that `datasets` may read more than once, to find the columns and their types
PREPARE = """
import sys
from transformers import PreTrainedTokenizerFast
from data.test_hub_stream import digests
from scratch_gpt.data.batching.token_shards import prepare
from scratch_gpt.data.readers.sources import open_source
from scratch_gpt.data.readers.tables import ReadOptions
tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[1])
source = open_source("tester/texts", ReadOptions(streaming=True))
print(*digests(prepare(source, tokenizer, num_processes=2)))
"""


def digests(shards: dict[str, Shard]) -> list[str]:
    return [hashlib.sha256(shards[split].tokens.tobytes()).hexdigest() for split in ("train", "validation")]


@pytest.mark.slow
def test_streamed_dataset_is_prepared_in_one_pass(tmp_path, monkeypatch):
    """Two processes tokenise a dataset while it is streamed: its file is transferred once, but for the beginning."""
    texts = [f"{number}. {text}" for number, text in enumerate(islice(cycle(stories(seed=0, count=2000)), ROWS))]
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    tokenizer = train_tokenizer(texts[:2000], "bpe", 600)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with running_hub() as hub:
        hub.repositories["datasets/tester/texts"] = Repository()
        hub.repositories["datasets/tester/texts"].commit("main", {"train.jsonl": content}, "texts")
        environment = hub_environment(hub, tmp_path / "home") | {"SCRATCH_GPT_CACHE": str(tmp_path / "cache")}
        paths = f"{PROJECT / 'tests'}:{PROJECT}"
        command = ("-c", PREPARE, str(tmp_path / "tokenizer"))
        done = run_python(*command, cwd=tmp_path, **environment | {"PYTHONPATH": paths})
    (tmp_path / "local.jsonl").write_bytes(content)
    monkeypatch.setenv("SCRATCH_GPT_CACHE", str(tmp_path / "local"))
    local = prepare(open_source(str(tmp_path / "local.jsonl")), tokenizer)
    assert done.stdout.split()[-2:] == digests(local)
    transferred = [(first, last) for path, first, last in hub.served if path == "train.jsonl"]
    assert len(content) > 1.2 * BEGINNING
    rest = sum(max(0, last + 1 - max(first, BEGINNING)) for first, last in transferred)
    assert rest == len(content) - BEGINNING
