"""A checkpoint is a model directory: a push uploads the files of the model, and not the training state."""

from pathlib import Path

import pytest
import torch
from helpers.hub import push
from helpers.loopback_hub import running_hub
from helpers.processes import PRETRAIN, TINY_RUN, run_here
from safetensors.torch import load, load_file

from scratch_gpt.hub.staging import files_to_upload

MODEL_FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
STATE_FILES = {"training_state.safetensors", "training_state.json", "manifest.json"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pushed")
    (folder / "text.txt").write_text("One day, Anna has two old lamps near the mill.\n" * 60)
    options = ("--output_dir", str(folder / "run"), "--dataset", str(folder / "text.txt"), *TINY_RUN)
    run_here(PRETRAIN, *options, "--max_steps", "1")
    return folder / "run/checkpoints/step-00000001"


def test_a_push_omits_the_training_state(checkpoint):
    there = {path.name for path in checkpoint.iterdir()}
    assert there >= MODEL_FILES | STATE_FILES
    sent = {path.name for path in files_to_upload(checkpoint)}
    assert sent >= MODEL_FILES
    assert not sent & STATE_FILES
    assert sent == {name for name in there if name.endswith(".py")} | (there - STATE_FILES)


@pytest.mark.slow
def test_a_pushed_checkpoint_contains_the_weights_once(checkpoint, tmp_path):
    with running_hub() as hub:
        result = push(hub, tmp_path / "home", str(checkpoint), "tester/checkpoint", "--yes")
        assert result.returncode == 0, result.stderr
        sent = hub.repositories["tester/checkpoint"].revisions["main"]
    assert set(sent) >= MODEL_FILES
    assert not STATE_FILES & set(sent)
    assert [name for name in sent if name.endswith(".safetensors")] == ["model.safetensors"]
    weights, expected = load(sent["model.safetensors"]), load_file(checkpoint / "model.safetensors")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
