"""What `scratch-gpt info` and the end of a run say to send, and copy, is enough to load the model."""

import pytest
import torch
from helpers.models import save_tiny
from helpers.processes import TINY_RUN, run_here, run_python
from transformers import AutoModelForCausalLM

from scratch_gpt.hub.shared_files import describe_files, shared_files

LOAD = """
import sys
sys.modules["scratch_gpt"] = None
from transformers import AutoModelForCausalLM, AutoTokenizer
AutoTokenizer.from_pretrained("copy")
model = AutoModelForCausalLM.from_pretrained("copy", trust_remote_code=True)
print(sum(weight.double().sum().item() for weight in model.parameters()))
"""


def test_a_run_says_what_to_send_and_the_copy_loads_without_this_package(tmp_path):
    (tmp_path / "text.txt").write_text("One day, Anna has two old lamps near the mill. She likes them.\n" * 60)
    options = ("--dataset", "text.txt", "--output_dir", "run", "--max_steps", "2")
    said = run_here("scratch-gpt", "train", "language_modeling", *options, *TINY_RUN, cwd=tmp_path).stdout
    assert describe_files(tmp_path / "run")[0].replace(str(tmp_path / "run"), "run") in said
    assert "are only for --resume and 'scratch-gpt verify'" in said
    printed = run_here("scratch-gpt", "info", "run", "--copy_to", "copy", cwd=tmp_path).stdout
    files = shared_files(tmp_path / "run")
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {path.name for path in files}
    assert not {"checkpoints", "run.yaml", "metrics.jsonl"} & {path.name for path in files}
    assert f"copied {len(files)} files to copy" in printed
    total = sum(path.stat().st_size for path in files)
    assert f"send {len(files)} files of run, {round(total / 1000):,} kB: " in printed
    assert "Best evaluation, step 2" in printed
    assert "gzip, bits per byte" in printed
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run", dtype=torch.float32)
    expected = sum(weight.double().sum().item() for weight in model.parameters())
    found = run_python("-c", LOAD, cwd=tmp_path, fresh=True, HF_MODULES_CACHE=str(tmp_path / "modules")).stdout
    assert float(found.split()[-1]) == pytest.approx(expected, rel=1e-9)
    again = run_here("scratch-gpt", "info", "run", "--copy_to", "copy", cwd=tmp_path, check=False)
    assert (again.returncode, "copy already exists and is not an empty folder" in again.stderr) == (2, True)


def test_an_adapter_without_a_model_is_shown_and_copied(tmp_path):
    adapter = tmp_path / "run" / "adapter"
    adapter.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).write_text("{}")
    printed = run_here("scratch-gpt", "info", "run", "--copy_to", "copy", cwd=tmp_path).stdout
    assert "run has no model, only an adapter" in printed
    assert "'hf upload USER/NAME run/adapter' publishes them" in printed
    assert {path.name for path in (tmp_path / "copy").rglob("*") if path.is_file()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_links_are_not_followed(tmp_path):
    folder = save_tiny(tmp_path / "model")
    lines = describe_files(folder)
    (folder / "checkpoints").symlink_to("/usr", target_is_directory=True)
    assert describe_files(folder) in ([], lines)  # refused, or the same: nothing of /usr


def test_a_folder_without_a_model_has_nothing_to_send(tmp_path):
    assert describe_files(tmp_path) == []
