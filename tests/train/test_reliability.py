"""Reliability: corrupted checkpoints are found, a signal saves, a full disk or a non-finite gradient loses nothing."""

import errno
import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from helpers.processes import PRETRAIN, PROJECT, TINY_RUN, run_here, run_python
from helpers.training import pretrain, weights
from safetensors.torch import load_file

from scratch_gpt.errors import ScratchError, TrainingError
from scratch_gpt.hub.tensor_files import write_tensors
from scratch_gpt.train.checkpoints.background_writer import BackgroundWriter, in_memory
from scratch_gpt.train.checkpoints.checkpoint import newest_checkpoint
from scratch_gpt.train.checkpoints.manifest import find_corruption, write_manifest
from scratch_gpt.train.engine.plots import plot_losses


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of four steps with a checkpoint every second step."""
    folder = tmp_path_factory.mktemp("reliability")
    text = folder / "text.txt"
    text.write_text("One day, Anna has two old lamps and a dog that sleeps.\n" * 60)
    pretrain(folder / "run", text, "--max_steps", "4", "--save_every", "2", "--keep_last", "9", "--dropout", "0.1")
    return folder / "run"


def test_changed_and_truncated_checkpoint_files_are_found(run, tmp_path, capsys):
    """Changes at 200 random places are found, and each time the previous checkpoint is used."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    newest, before = copy / "checkpoints/step-00000004", copy / "checkpoints/step-00000002"
    assert newest_checkpoint(copy) == newest
    generator = random.Random(0)
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    for number in range(200):
        path = files[number % len(files)]
        whole = path.read_bytes()
        place = generator.randrange(len(whole))
        flipped = whole[:place] + bytes([whole[place] ^ (1 << generator.randrange(8))]) + whole[place + 1 :]
        path.write_bytes(whole[:place] if number % 3 == 0 else flipped)
        assert find_corruption(newest) is not None, (path.name, place)
        assert newest_checkpoint(copy) == before
        path.write_bytes(whole)
    assert newest_checkpoint(copy) == newest
    assert len({path.stat().st_mode for path in files}) == 1  # all files have the same mode
    assert "checkpoint step-00000004 is skipped" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["missing", "unlisted", "linked", "no manifest"])
def test_added_and_missing_files_are_corruption(run, tmp_path, change):
    folder = tmp_path / "checkpoint"
    shutil.copytree(run / "checkpoints/step-00000002", folder)
    assert find_corruption(folder) is None
    if change == "missing":
        (folder / "config.json").unlink()
    elif change == "unlisted":
        (folder / "pytorch_model.bin").write_bytes(b"")
    elif change == "linked":
        (folder / "model.safetensors.index.json").symlink_to("/dev/null")
    else:
        (folder / "manifest.json").unlink()
    assert {"missing": "missing", "unlisted": "not listed", "linked": "not listed", "no manifest": "has no"}[
        change
    ] in str(find_corruption(folder))


def test_no_valid_checkpoint_is_an_error(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for folder in (tmp_path / "run/checkpoints").iterdir():
        (folder / "config.json").write_text("{}")
    with pytest.raises(ScratchError, match=r"all checkpoints in .* are corrupted"):
        newest_checkpoint(tmp_path / "run")


def test_resume_skips_a_corrupted_checkpoint_with_the_same_result(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    path = copy / "checkpoints/step-00000004/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    (copy / ".best.partial").mkdir()
    result = run_here(PRETRAIN, "--output_dir", str(copy), "--resume")
    assert "step-00000004 is skipped: model.safetensors has" in " ".join(result.stderr.split())
    assert find_corruption(path.parent) is None
    for name, expected in weights(run / "checkpoints/step-00000004").items():
        assert torch.equal(weights(path.parent)[name], expected), name
    assert not list(copy.rglob("*.partial"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--muon_learning_rate", "0.5", "--seed", "4"), "can't change muon_learning_rate 0.02 to 0.5, seed 0 to 4"),
        (("--max_steps", "9"), "can't change max_steps 4 to 9"),
        (("--gradient_accumulation_steps", "2"), "the batch of a step"),
    ],
)
def test_resume_refuses_changed_settings(run, change, message):
    result = run_here(PRETRAIN, "--output_dir", str(run), "--resume", *change, check=False)
    assert result.returncode == 2
    assert message in result.stderr.strip().splitlines()[-1]
    assert "allow it with --allow_changed_settings" in result.stderr


def test_resume_allows_changed_settings_on_request(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    allowed = ("--allow_changed_settings", "--max_steps", "6")
    run_here(PRETRAIN, "--output_dir", str(tmp_path / "run"), "--resume", *allowed)
    assert find_corruption(tmp_path / "run/checkpoints/step-00000006") is None


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGINT, marks=pytest.mark.release), pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
)
def test_signal_finishes_the_step_and_saves(run, tmp_path, number):
    text, stopped, whole = run.parent / "text.txt", tmp_path / "stopped", tmp_path / "whole"
    options = ("--max_steps", "200", "--eval_every", "0", "--save_every", "0", "--log_every", "1", "--dropout", "0.1")
    command = [sys.executable, PRETRAIN, "--output_dir", str(stopped), "--dataset", str(text), *TINY_RUN, *options]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    metrics = stopped / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") > 5):
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number, errors
    assert "continue with --resume" in errors
    assert "Traceback" not in errors
    (saved,) = (stopped / "checkpoints").glob("step-*")
    assert find_corruption(saved) is None
    assert 5 < int(saved.name.removeprefix("step-")) < 200
    run_here(PRETRAIN, "--output_dir", str(stopped), "--resume")
    pretrain(whole, text, *options)
    for name, expected in weights(whole / "checkpoints/step-00000200").items():
        assert torch.equal(weights(stopped / "checkpoints/step-00000200")[name], expected), name


@pytest.mark.parametrize(
    ("syncs", "code", "message"),
    [
        (0, errno.ENOSPC, "[Errno 28] No space left on device"),
        (3, errno.EROFS, "[Errno 30] Read-only file system"),
        (12, errno.EACCES, "[Errno 13] Permission denied"),
        (20, errno.ENOSPC, "[Errno 28] No space left on device"),
    ],
)
def test_write_errors_keep_earlier_checkpoints(run, tmp_path, monkeypatch, syncs, code, message):
    """If a sync fails after `syncs` files, the last valid checkpoint is kept, and no staging directory is left."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints/step-00000004")
    real, done = os.fsync, []

    def full(descriptor: int) -> None:
        done.append(descriptor)
        if len(done) > syncs:
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr("os.fsync", full)
    result = run_here(PRETRAIN, "--output_dir", str(copy), "--resume", check=False)
    assert result.returncode == 1
    assert f"can't be written: {message}" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert newest_checkpoint(copy) == copy / "checkpoints/step-00000002"
    assert not list(copy.rglob("*.partial"))
    monkeypatch.undo()
    run_here(PRETRAIN, "--output_dir", str(copy), "--resume")
    assert find_corruption(copy / "checkpoints/step-00000004") is None


def test_non_finite_gradient_stops_before_the_step_and_is_recorded(run, tmp_path):
    """A huge learning rate makes the weights overflow within a few steps; the record has the batch."""
    options = ("--max_steps", "60", "--optimizer", "adamw", "--learning_rate", "1e30", "--warmup_steps", "1")
    result = pretrain(tmp_path / "run", run.parent / "text.txt", *options, "--max_grad_norm", "0", check=False)
    assert result.returncode == 1
    assert "failure.json" in result.stderr
    record = json.loads((tmp_path / "run/failure.json").read_text())
    assert record["step"] == record["last_steps"][-1]["step"]
    assert record["batches"]["to"]["row"] > record["batches"]["from"]["row"]
    assert record["learning_rates"] == [1e30]
    last = record["last_steps"][-1]
    assert {"nan", "inf"} & {last["loss"], last["grad_norm"]}


@pytest.mark.slow
def test_verify_passes_a_valid_run_and_finds_corruption(run, tmp_path):
    """Bytes, validation loss and exact resume; changed weights with a valid manifest are found by their loss."""
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    verified = run_here("scratch-gpt", "verify", str(run))
    assert verified.stdout.count("✓") == 5, verified.stdout
    assert "bit-equal to 6 uninterrupted steps" in " ".join(verified.stdout.split())
    assert sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before
    shutil.copytree(run, tmp_path / "run")
    newest = tmp_path / "run/checkpoints/step-00000004"
    changed = {name: tensor * 1.5 for name, tensor in load_file(newest / "model.safetensors").items()}
    write_tensors(newest, "model", changed)
    flipped = run_here("scratch-gpt", "verify", str(tmp_path / "run"), check=False)
    assert flipped.returncode == 1
    assert "✗ step-00000004: files: the bytes of model.safetensors were changed" in " ".join(flipped.stdout.split())
    write_manifest(newest)
    scored = run_here("scratch-gpt", "verify", str(tmp_path / "run"), check=False)
    assert scored.returncode == 1
    assert "✗ step-00000004: validation loss" in scored.stdout
    none = run_here("scratch-gpt", "verify", str(tmp_path), check=False)
    assert none.returncode == 2
    assert "contains no run with checkpoints" in none.stderr


@pytest.mark.slow
def test_verify_does_not_compile(run, tmp_path, monkeypatch):
    """A compiled run is verified in seconds, even without a compiler."""
    shutil.copytree(run, tmp_path / "run")
    record = yaml.safe_load((run / "run.yaml").read_text())
    record["arguments"]["compile"] = "on"
    (tmp_path / "run/run.yaml").write_text(yaml.safe_dump(record))
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: pytest.fail("compiles"))
    assert run_here("scratch-gpt", "verify", str(tmp_path / "run")).stdout.count("✓") == 5


@pytest.mark.slow
@pytest.mark.parametrize("script", ["translation.py", "classification.py", "masked_lm.py"])
def test_every_kind_of_run_can_be_verified(script, tmp_path):
    options = {
        "translation.py": "--num_pairs 300 --encoder_layers 1 --decoder_layers 1 --metric_for_best_model val_loss",
        "classification.py": "--num_texts 200 --num_hidden_layers 1 --word_dropout 0.1",
        "masked_lm.py": "--num_stories 100 --num_hidden_layers 1",
    }[script].split()
    options += [
        "--max_steps",
        "4",
        "--eval_every",
        "2",
        "--save_every",
        "2",
        "--hidden_size",
        "32",
        "--num_attention_heads",
        "2",
    ]
    options += ["--num_threads", "1", "--dropout", "0.1", "--tokens_per_batch", "256", "--vocab_size", "300"]
    run_here(str(PROJECT / "training" / script), "--output_dir", str(tmp_path / "run"), *options)
    result = run_here("scratch-gpt", "verify", str(tmp_path / "run"))
    assert result.stdout.count("✓") == 5, result.stdout


@pytest.mark.slow
def test_killed_runs_have_the_result_of_uninterrupted_ones(tmp_path):
    """A few of the kills of the stress test, during a save and at random times."""
    script, out = PROJECT / "stress" / "kills.py", tmp_path / "kills.json"
    run_python(script, "--kills", "4", "--cases", "GPT, Muon", "--seed", "1", "--output", out, cwd=PROJECT)
    records = json.loads(out.read_text())
    assert [record["equal"] for record in records] == [True] * 4
    assert all(record["killed"] for record in records if "call" in record)


def test_copies_in_memory_keep_shared_tensors():
    table, other = torch.randn(3, 2), torch.randn(3, 2)
    copied = in_memory({"embed": table, "head": table, "other": other})
    assert copied["embed"] is copied["head"]
    expected = table.clone()
    table.zero_()
    assert torch.equal(copied["embed"], expected)
    assert torch.equal(copied["other"], other)


def test_background_writer_raises_the_error_of_its_job():
    def fail() -> None:
        raise TrainingError("no room")

    with pytest.raises(TrainingError, match="no room"), BackgroundWriter() as writer:
        writer.submit(fail)
    writer = BackgroundWriter()
    writer.submit(fail)
    with pytest.raises(TrainingError, match="no room"):
        writer.submit(print)


def test_background_writer_computes_with_one_thread():
    """And the other threads of the process keep their number."""
    program = """
import threading, torch
from scratch_gpt.train.checkpoints.background_writer import BackgroundWriter
torch.set_num_threads(3)
counts = []
with BackgroundWriter() as writer:
    writer.submit(lambda: counts.append((torch.randn(10**6).sum(), torch.get_num_threads())[1]))
later = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
later.start()
later.join()
print([*counts, torch.get_num_threads()])
"""
    assert run_python("-c", program, cwd=PROJECT).stdout.strip() == "[1, 3, 3]"


def test_manifest_lists_the_files_of_its_directory(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").write_text("text")
    write_manifest(tmp_path)
    assert find_corruption(tmp_path) is None
    state = json.loads((tmp_path / "manifest.json").read_text())
    assert list(state["files"]) == ["a/file"]


def test_plotting_does_not_leak_memory(tmp_path):
    """Matplotlib's figures are reference cycles of megabytes: a run that plots at each save would leak memory."""
    rows = [{"tokens": step, "train_loss": 5 - step / 10, "val_loss": 4.0} for step in range(20)]
    plot_losses(rows, tmp_path / "loss.png")
    assert not [item for item in gc.get_objects() if type(item).__name__ in ("RendererAgg", "Figure")]
