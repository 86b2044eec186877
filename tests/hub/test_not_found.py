"""A mistyped name of a model, tokenizer or dataset: what is missing is said in plain words."""

import pytest
from datasets.exceptions import DatasetNotFoundError
from helpers.hub import hub_environment
from helpers.loopback_hub import running_hub
from helpers.models import save_tiny
from helpers.processes import run_python
from huggingface_hub import constants

from scratch_gpt.data.readers.sources import open_source
from scratch_gpt.data.readers.tables import ReadOptions, open_hub
from scratch_gpt.data.readers.text import documents_of
from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.loading import load_model, open_config, open_tokenizer
from scratch_gpt.not_found import why_no_path, why_not_found

OPENERS = {"model": load_model, "config": open_config, "tokenizer": open_tokenizer}


@pytest.mark.parametrize("kind", OPENERS)
@pytest.mark.parametrize("name", ["none", "nobody/nothing"])
def test_offline_the_hub_is_not_asked(kind, name):
    expected = r"no folder of that name here, and the Hub is not asked, because HF_HUB_OFFLINE is set.*no such "
    with pytest.raises(ScratchError, match=expected) as refusal:
        OPENERS[kind](name)
    assert name in str(refusal.value)
    assert "couldn't connect" not in str(refusal.value)


OPEN_ALL = """
from scratch_gpt.hub.loading import load_model, open_config, open_tokenizer
for open_one in (load_model, open_config, open_tokenizer):
    try:
        open_one("nobody/nothing")
    except ValueError as error:
        print(error)
"""


def test_neither_here_nor_on_the_hub(tmp_path):
    with running_hub() as hub:
        said = run_python("-c", OPEN_ALL, cwd=tmp_path, env=hub_environment(hub, tmp_path / "home")).stdout.splitlines()
    for line, kind in zip(said, ("model", "model", "tokenizer"), strict=True):
        assert f"there is no folder of that name here, and no such {kind} on the Hub" in line


def test_a_dataset_that_is_not_on_the_hub():
    error = DatasetNotFoundError("Dataset 'nobody/nothing' doesn't exist on the Hub or cannot be accessed.")
    assert "no such dataset on the Hub" in str(why_not_found("nobody/nothing", "dataset", error))
    assert why_not_found("nobody/nothing", "dataset", ValueError("no split 'test'")) is None


@pytest.mark.parametrize("kind", OPENERS)
def test_a_hub_that_can_not_be_reached_is_told_from_one_without_the_model(kind, monkeypatch):
    from huggingface_hub.utils import _http

    def refuse():
        raise ConnectionError("no route")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(_http, "get_session", lambda: refuse())
    with pytest.raises(ScratchError, match="the Hub can't be reached, so it is unknown whether it has such a"):
        OPENERS[kind]("nobody/nothing")


@pytest.mark.parametrize("kind", OPENERS)
def test_paths_are_not_asked_of_the_hub_and_similar_ones_are_suggested(kind, tmp_path, monkeypatch):
    save_tiny(tmp_path / "runs" / "gpt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # a request would fail otherwise
    for name in (str(tmp_path / "runs" / "gtp"), "./runs/gtp", "runs/gtp/"):
        with pytest.raises(ScratchError, match=r"there is no folder of that name here \(did you mean .*runs/gpt\?\)"):
            OPENERS[kind](name)
    with pytest.raises(ScratchError, match=r"there is no folder of that name here \(.*nowhere does not exist\)"):
        OPENERS[kind](str(tmp_path / "nowhere" / "gpt"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ScratchError, match=r"did you mean runs/gpt\?"):
        OPENERS[kind]("runs/gtp")


def test_a_folder_without_a_model_is_no_missing_folder(tmp_path):
    with pytest.raises(ScratchError, match=r"the folder has no config\.json, so it is not a model's"):
        load_model(tmp_path)


def test_a_name_in_a_folder_of_this_machine_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    """Unless the Hub's cache has a model of that name."""
    save_tiny(tmp_path / "runs" / "gpt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # a request would fail otherwise
    for open_one in OPENERS.values():
        with pytest.raises(ScratchError, match=r"no such folder: runs/nope; runs has: gpt"):
            open_one("runs/nope")
    assert why_no_path("nope/gpt") is None
    cached = tmp_path / "cache" / "models--runs--nope"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc").mkdir(parents=True)
    (cached / "snapshots" / "abc" / "config.json").write_text("{}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert why_no_path("runs/nope") is None


def test_an_unfinished_run_is_said_to_be_one(tmp_path):
    (tmp_path / "run.yaml").write_text("")
    (tmp_path / "checkpoints").mkdir()
    for open_one in (load_model, open_config):
        with pytest.raises(ScratchError, match=r"is an unfinished run: continue it with --resume \(the model is"):
            open_one(tmp_path)
    for step in (2, 10):
        (tmp_path / "checkpoints" / f"step-{step:08}").mkdir()
    with pytest.raises(ScratchError, match="an unfinished run, whose newest checkpoint is step 10: continue it"):
        load_model(tmp_path)


def test_datasets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reviews.tsv").write_text("a\tb\n")
    with pytest.raises(ScratchError, match=r"no such file or folder: review\.tsv \(did you mean reviews\.tsv\?\)"):
        list(documents_of(open_source("review.tsv")))
    with pytest.raises(ScratchError, match=r"no file or folder of that name here, and the Hub is not asked"):
        open_hub("nobody/nothing", ReadOptions())
    with pytest.raises(ScratchError, match=r"no file or folder of that name here \(did you mean reviews\.tsv\?\)"):
        open_hub("reviews", ReadOptions())
