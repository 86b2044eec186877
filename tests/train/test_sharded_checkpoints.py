"""Checkpoints whose tensors several processes write: read by any number of processes, and complete or rejected."""

import json
import os
from pathlib import Path

import pytest
import torch
from helpers.processes import PROJECT, run_python
from transformers import AutoModelForCausalLM

from scratch_gpt.hub.tensor_files import Writers, load_tensors, write_tensors
from scratch_gpt.train.checkpoints.manifest import find_corruption, write_manifest
from scratch_gpt.train.checkpoints.snapshot import TENSORS

TENSORS_OF_ALL_KINDS = {
    "matrix": torch.randn(5, 3, generator=torch.Generator().manual_seed(0)),
    "bf16": torch.ones(3, dtype=torch.bfloat16) / 3,
    "bytes": torch.arange(7, dtype=torch.uint8),
    "scalar": torch.tensor(3.0),
    "integer": torch.tensor(2**40),
    "empty": torch.empty(0, 4),
    "flags": torch.tensor([True, False]),
    "slice": torch.arange(12.0).reshape(3, 4)[:, 1:3],
}


def resave(processes: int, source: Path | str, target: Path) -> Path:
    """Load a state with a number of processes, save it again, and return its directory."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--local_addr", "127.0.0.1", "--nproc_per_node")
    script = str(PROJECT / "tests" / "helpers" / "resave.py")
    paths = os.pathsep.join([str(PROJECT / "tests"), str(PROJECT)])
    run_python(*launcher, str(processes), script, str(source), str(target), cwd=PROJECT, PYTHONPATH=paths)
    return target / "checkpoints" / "step-00000002"


@pytest.mark.slow
def test_any_number_of_processes_restores_the_same_bits(tmp_path):
    """Saved by four processes, restored and saved again by two, one and four."""
    folder = resave(4, "new", tmp_path / "first")
    assert {f"model-0000{i}-of-00004.safetensors" for i in range(1, 5)} <= set(os.listdir(folder))
    expected = load_tensors(folder, "model") | load_tensors(folder, TENSORS)
    assert any(name.startswith("average.") for name in expected)
    assert any(name.endswith("momentum_buffer") for name in expected)
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 0
    for number, processes in enumerate((2, 1, 4)):
        folder = resave(processes, folder, tmp_path / str(number))
        assert find_corruption(folder) is None
        found = load_tensors(folder, "model") | load_tensors(folder, TENSORS)
        named = {name for name in expected if not name.startswith("random.")}
        assert named == {name for name in found if not name.startswith("random.")}
        assert all(torch.equal(found[name], expected[name]) for name in named)
    # A shard that another machine did not keep, or not whole, is found before anything is loaded.
    shard = folder / "model-00003-of-00004.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    assert "model-00003-of-00004.safetensors has" in str(find_corruption(folder, sizes_only=True))
    shard.unlink()
    assert find_corruption(folder, sizes_only=True) == "model-00003-of-00004.safetensors missing"


def test_tensors_are_written_one_at_a_time_and_read_as_they_were(tmp_path):
    checksums = write_tensors(tmp_path, "state", TENSORS_OF_ALL_KINDS)
    assert list(checksums) == ["state.safetensors"]
    found = load_tensors(tmp_path, "state")  # by safetensors itself
    assert found.keys() == TENSORS_OF_ALL_KINDS.keys()
    for name, tensor in TENSORS_OF_ALL_KINDS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
    write_manifest(tmp_path, checksums)
    assert find_corruption(tmp_path) is None  # the checksums are those of the files


def test_each_writer_has_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.distributed, "barrier", lambda: None)  # the writers take turns in this process
    checksums: dict[str, str] = {}
    for process in (2, 1, 0):
        checksums |= write_tensors(tmp_path, "model", TENSORS_OF_ALL_KINDS, writers=Writers(process, 3))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == TENSORS_OF_ALL_KINDS.keys()
    assert set(index["weight_map"].values()) == {f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in TENSORS_OF_ALL_KINDS.values())
    found = load_tensors(tmp_path, "model")
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS_OF_ALL_KINDS.items())
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(OSError, match=r"lacks model-00002-of-00003\.safetensors, which another process has written"):
        write_manifest(tmp_path, checksums)


def test_a_writer_that_fails_takes_part_to_the_end(tmp_path, monkeypatch):
    """Otherwise the others would wait for its rows."""
    seen = []
    monkeypatch.setattr("scratch_gpt.hub.tensor_files.whole", lambda tensor: seen.append(1) or tensor)
    with pytest.raises(FileNotFoundError):
        write_tensors(tmp_path / "missing", "model", TENSORS_OF_ALL_KINDS)
    assert len(seen) == len(TENSORS_OF_ALL_KINDS)
