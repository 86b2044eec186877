"""Random states in checkpoints, and which process reads checkpoints."""

import json
import random

import numpy as np
import pytest
import torch
from helpers.processes import PROJECT, TWO_PROCESSES, run_python

from scratch_gpt.train.checkpoints.manifest import find_corruption, write_manifest
from scratch_gpt.train.checkpoints.random_state import (
    forked_random_state,
    generator_module,
    get_random_state,
    set_random_state,
)


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu", "mtia"])
def test_every_device_has_a_random_generator(kind):
    """Regression: only CUDA's generator was saved."""
    module = generator_module(torch.device(kind))
    assert module is getattr(torch, kind)
    assert callable(module.get_rng_state)
    assert callable(module.set_rng_state)


def test_random_states_are_restored():
    device = torch.device("cpu")
    assert generator_module(device) is None
    state, generators = get_random_state(device)
    drawn = torch.rand(3), np.random.rand(3), random.random()
    again = json.loads(json.dumps(state))
    # The state of a device that is not available is ignored.
    set_random_state({**again, "device": "cuda"}, [*generators, torch.zeros(16, dtype=torch.uint8)], device)
    assert torch.equal(torch.rand(3), drawn[0])
    assert (np.random.rand(3) == drawn[1]).all()
    assert random.random() == drawn[2]
    with forked_random_state(device):
        torch.manual_seed(7)
        torch.rand(5)
    set_random_state(again, generators, device)
    torch.rand(3)
    following = torch.rand(1)
    set_random_state(again, generators, device)
    torch.rand(3)
    with forked_random_state(device):
        torch.manual_seed(7)
        torch.rand(5)
    assert torch.equal(torch.rand(1), following)


RESUME = """
import sys
from pathlib import Path
from accelerate import PartialState
from scratch_gpt.errors import ScratchError
from scratch_gpt.train.checkpoints import manifest
from scratch_gpt.train.checkpoints.checkpoint import newest_checkpoint

run, state = Path(sys.argv[1]), PartialState(cpu=True)
if not state.is_main_process:
    manifest._sha256 = None  # other processes must not read the files
newest, before = (run / "checkpoints" / f"step-0000000{step}" for step in (2, 1))
assert newest_checkpoint(run, state) == newest
state.wait_for_everyone()
if state.is_main_process:
    path = newest / "model.safetensors"
    path.write_bytes(b"x" + path.read_bytes()[1:])
state.wait_for_everyone()
assert newest_checkpoint(run, state) == before
state.wait_for_everyone()
if state.is_main_process:
    (before / "config.json").unlink()
state.wait_for_everyone()
try:
    newest_checkpoint(run, state)
    raise AssertionError("a corrupt checkpoint was used")
except ScratchError as error:
    assert "are corrupted" in str(error), error
"""


@pytest.mark.slow
def test_only_the_main_process_reads_the_checkpoints(tmp_path):
    for step in (1, 2):
        folder = tmp_path / f"run/checkpoints/step-0000000{step}"
        folder.mkdir(parents=True)
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_text(f"{name} {step}", encoding="utf-8")
        write_manifest(folder)
    (tmp_path / "resume.py").write_text(RESUME, encoding="utf-8")
    result = run_python(*TWO_PROCESSES, str(tmp_path / "resume.py"), str(tmp_path / "run"), cwd=PROJECT)
    assert result.stderr.count("step-00000001 is skipped") == 1


def test_sizes_are_checked_without_reading(tmp_path):
    (tmp_path / "file").write_text("text", encoding="utf-8")
    write_manifest(tmp_path)
    (tmp_path / "file").write_text("tixt", encoding="utf-8")
    assert find_corruption(tmp_path, sizes_only=True) is None
    assert "changed" in find_corruption(tmp_path)
    (tmp_path / "file").write_text("longer", encoding="utf-8")
    assert "has 6 bytes, 4 were written" in find_corruption(tmp_path, sizes_only=True)
