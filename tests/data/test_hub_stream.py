"""Preparation of a streamed Hub dataset, from a local Hub server."""

import json
import random

from helpers.hub import hub_environment
from helpers.hub_repository import Repository
from helpers.loopback_hub import running_hub
from helpers.processes import PROJECT, run_python

from scratch_gpt import train_tokenizer

ROWS = 20_000
PREPARE = """
import json, sys
import numpy as np
from transformers import PreTrainedTokenizerFast
from scratch_gpt.data.batching import preparation
from scratch_gpt.data.batching.token_shards import prepare
from scratch_gpt.data.readers.sources import open_source
from scratch_gpt.data.readers.tables import ReadOptions
preparation.PART_CHARACTERS = 200_000
tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[1])
shards = prepare(open_source(sys.argv[2], options=ReadOptions(streaming=True)), tokenizer, num_processes=2)
print(json.dumps([np.asarray(shards[split].tokens).tolist() for split in ("train", "validation")]))
"""


def test_streamed_dataset_is_prepared_in_one_pass(tmp_path):
    """Two processes tokenise a dataset while it is streamed: its file is transferred once, and no row is lost."""
    words = random.Random(0)
    texts = [f"{number} " + " ".join(words.choices(("a", "lamp", "near", "mill"), k=30)) for number in range(ROWS)]
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    tokenizer = train_tokenizer(texts[:200], "bpe", 300)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with running_hub() as hub:
        hub.repositories["datasets/tester/texts"] = Repository()
        hub.repositories["datasets/tester/texts"].commit("main", {"train.jsonl": content}, "texts")
        environment = hub_environment(hub, tmp_path / "home") | {"SCRATCH_GPT_CACHE": str(tmp_path / "cache")}
        command = ("-c", PREPARE, str(tmp_path / "tokenizer"), "tester/texts")
        done = run_python(*command, cwd=PROJECT, **environment)
        served = hub.served["train.jsonl"]
    train, validation = json.loads(done.stdout.splitlines()[-1])
    found = "".join(map(tokenizer.decode, (train, validation))).split(tokenizer.eos_token)[:-1]
    assert sorted(found) == sorted(texts)
    assert len(content) <= served < 1.2 * len(content)
