"""Shared by all tests: one thread, no Hub, a separate cache, and a small tokenizer."""

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from helpers.forked_python import fork_verifications
from helpers.processes import PROJECT
from hypothesis import settings

from scratch_gpt import (
    train_tokenizer,
)
from scratch_gpt.data.corpora.stories import stories
from scratch_gpt.hub import push

RUN_PYTHON = push.run_python

torch.set_num_threads(1)

# The same examples in every run; one that takes over half a minute fails.
settings.register_profile("few", max_examples=40, deadline=30_000, derandomize=True, database=None)
settings.register_profile("thorough", max_examples=2000, deadline=30_000, database=None)
settings.load_profile("few")

# Compiled code is shared by all workers.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(PROJECT / ".pytest_cache" / "compiled"))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    """Each process runs the tests of whole folders, and takes over some of another's at the end: models and directories
    that the tests of a module share are then made once. The default deals the tests out in turn."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


def pytest_collection_finish():
    """Garbage collections skip the modules and tests that exist until the end: each would visit all of them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    os.environ["SCRATCH_GPT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="session")
def _forked_verifications():
    """What loads a model without the package before a push is forked, except in tests that use `fresh_verification`."""
    fork_verifications(push)


@pytest.fixture
def fresh_verification(monkeypatch):
    """Before a push, a model is loaded in a new interpreter, as it is for a user."""
    monkeypatch.setattr(push, "run_python", RUN_PYTHON)


@pytest.fixture(scope="session")
def story_tokenizer():
    return train_tokenizer(stories(seed=0, count=300), "bpe", 600)


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(stories(seed=3, count=150)))
    return path
