"""Nothing lost: damaged checkpoints are found, a signal saves, a full disk or a spoilt gradient costs no checkpoint."""

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
from safetensors.torch import load_file, save_file

from scratch_gpt.errors import ScratchError, TrainingError
from scratch_gpt.train.checkpoints.background_writer import BackgroundWriter, in_memory
from scratch_gpt.train.checkpoints.checkpoint import newest_checkpoint
from scratch_gpt.train.checkpoints.manifest import damage, write_manifest
from scratch_gpt.train.engine.plots import plot_losses


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of four steps with a checkpoint at each second one."""
    folder = tmp_path_factory.mktemp("reliability")
    text = folder / "text.txt"
    text.write_text("One day, Anna has two old lamps and a dog that sleeps.\n" * 60)
    pretrain(folder / "run", text, "--max_steps", "4", "--save_every", "2", "--keep_last", "9", "--dropout", "0.1")
    return folder / "run"


def test_every_byte_of_a_checkpoint_counts(run, tmp_path, capsys):
    """A byte flipped or cut off anywhere is found, and the checkpoint before is taken."""
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
        assert damage(newest) is not None, (path.name, place)
        assert newest_checkpoint(copy) == before
        path.write_bytes(whole)
    assert newest_checkpoint(copy) == newest
    assert len({path.stat().st_mode for path in files}) == 1  # whoever may read one may read all
    assert "checkpoint step-00000004 is passed over" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["missing", "strange", "linked", "no list"])
def test_files_that_come_and_go_are_damage(run, tmp_path, change):
    folder = tmp_path / "checkpoint"
    shutil.copytree(run / "checkpoints/step-00000002", folder)
    assert damage(folder) is None
    if change == "missing":
        (folder / "config.json").unlink()
    elif change == "strange":
        (folder / "pytorch_model.bin").write_bytes(b"")
    elif change == "linked":
        (folder / "model.safetensors.index.json").symlink_to("/dev/null")
    else:
        (folder / "manifest.json").unlink()
    assert {"missing": "missing", "strange": "not listed", "linked": "not listed", "no list": "has no"}[change] in str(
        damage(folder)
    )


def test_no_whole_checkpoint_is_an_error(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for folder in (tmp_path / "run/checkpoints").iterdir():
        (folder / "config.json").write_text("{}")
    with pytest.raises(ScratchError, match=r"no checkpoint in .* is whole"):
        newest_checkpoint(tmp_path / "run")


def test_a_resume_over_a_damaged_checkpoint_ends_with_the_same_weights(run, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(run, again)
    path = again / "checkpoints/step-00000004/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    (again / ".best.partial").mkdir()
    result = run_here(PRETRAIN, "--output_dir", str(again), "--resume")
    assert "step-00000004 is passed over: model.safetensors has" in " ".join(result.stderr.split())
    assert damage(path.parent) is None
    for name, expected in weights(run / "checkpoints/step-00000004").items():
        assert torch.equal(weights(path.parent)[name], expected), name
    assert not list(again.rglob("*.partial"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--muon_learning_rate", "0.5", "--seed", "4"), "can't change muon_learning_rate 0.02 to 0.5, seed 0 to 4"),
        (("--max_steps", "9"), "can't change max_steps 4 to 9"),
        (("--gradient_accumulation_steps", "2"), "the batch of a step"),
    ],
)
def test_a_resume_refuses_to_change_the_mathematics(run, change, said):
    result = run_here(PRETRAIN, "--output_dir", str(run), "--resume", *change, check=False)
    assert result.returncode == 2
    assert said in result.stderr.strip().splitlines()[-1]
    assert "insist with --allow_changed_settings" in result.stderr


def test_a_resume_changes_what_it_is_told_to(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    insisted = ("--allow_changed_settings", "--max_steps", "6")
    run_here(PRETRAIN, "--output_dir", str(tmp_path / "run"), "--resume", *insisted)
    assert damage(tmp_path / "run/checkpoints/step-00000006") is None


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_says_so(run, tmp_path, number):
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
    assert "go on with --resume" in errors
    assert "Traceback" not in errors
    (saved,) = (stopped / "checkpoints").glob("step-*")
    assert damage(saved) is None
    assert 5 < int(saved.name.removeprefix("step-")) < 200
    run_here(PRETRAIN, "--output_dir", str(stopped), "--resume")
    pretrain(whole, text, *options)
    for name, expected in weights(whole / "checkpoints/step-00000200").items():
        assert torch.equal(weights(stopped / "checkpoints/step-00000200")[name], expected), name


@pytest.mark.parametrize(
    ("syncs", "code", "said"),
    [
        (0, errno.ENOSPC, "[Errno 28] No space left on device"),
        (3, errno.EROFS, "[Errno 30] Read-only file system"),
        (12, errno.EACCES, "[Errno 13] Permission denied"),
        (20, errno.ENOSPC, "[Errno 28] No space left on device"),
    ],
)
def test_a_disk_that_refuses_costs_no_checkpoint(run, tmp_path, monkeypatch, syncs, code, said):
    """After so many files were synced, of best model or checkpoint; the last good checkpoint stays, without litter."""
    again = tmp_path / "run"
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints/step-00000004")
    real, done = os.fsync, []

    def full(descriptor: int) -> None:
        done.append(descriptor)
        if len(done) > syncs:
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr("os.fsync", full)
    result = run_here(PRETRAIN, "--output_dir", str(again), "--resume", check=False)
    assert result.returncode == 1
    assert f"can't be written: {said}" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert newest_checkpoint(again) == again / "checkpoints/step-00000002"
    assert not list(again.rglob("*.partial"))
    monkeypatch.undo()
    run_here(PRETRAIN, "--output_dir", str(again), "--resume")
    assert damage(again / "checkpoints/step-00000004") is None


def test_a_spoilt_gradient_stops_before_the_step_and_leaves_its_circumstances(run, tmp_path):
    """An absurd learning rate spoils the weights within a few steps; the record says at which batch."""
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
def test_verify_proves_a_sound_run_and_finds_what_is_wrong(run, tmp_path):
    """Bytes, validation loss and exact resume; weights changed under a fresh manifest are found by their loss."""
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    sound = run_here("scratch-gpt", "verify", str(run))
    assert sound.stdout.count("✓") == 5, sound.stdout
    assert "bit-equal with 6 steps at a stretch" in " ".join(sound.stdout.split())
    assert sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before
    shutil.copytree(run, tmp_path / "run")
    newest = tmp_path / "run/checkpoints/step-00000004"
    changed = {name: tensor * 1.5 for name, tensor in load_file(newest / "model.safetensors").items()}
    save_file(changed, newest / "model.safetensors", {"format": "pt"})
    flipped = run_here("scratch-gpt", "verify", str(tmp_path / "run"), check=False)
    assert flipped.returncode == 1
    assert "✗ step-00000004: every byte: the bytes of model.safetensors were changed" in " ".join(
        flipped.stdout.split()
    )
    write_manifest(newest)
    scored = run_here("scratch-gpt", "verify", str(tmp_path / "run"), check=False)
    assert scored.returncode == 1
    assert "✗ step-00000004: validation loss" in scored.stdout
    none = run_here("scratch-gpt", "verify", str(tmp_path), check=False)
    assert none.returncode == 2
    assert "holds no run with checkpoints" in none.stderr


@pytest.mark.slow
def test_verify_compiles_nothing(run, tmp_path, monkeypatch):
    """A run that was compiled is verified in seconds, and where there is no compiler."""
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
def test_killed_runs_end_as_if_they_had_not_been(tmp_path):
    """A few kills of `stress/kills.py`, during a save and at random moments."""
    script, out = PROJECT / "stress" / "kills.py", tmp_path / "kills.json"
    run_python(script, "--kills", "4", "--cases", "GPT, Muon", "--seed", "1", "--output", out, cwd=PROJECT)
    records = json.loads(out.read_text())
    assert [record["equal"] for record in records] == [True] * 4
    assert all(record["killed"] for record in records if "call" in record)


def test_copies_in_memory_share_what_was_shared():
    table, other = torch.randn(3, 2), torch.randn(3, 2)
    copied = in_memory({"embed": table, "head": table, "other": other})
    assert copied["embed"] is copied["head"]
    expected = table.clone()
    table.zero_()
    assert torch.equal(copied["embed"], expected)
    assert torch.equal(copied["other"], other)


def test_the_writer_raises_what_its_job_raised():
    def fail() -> None:
        raise TrainingError("no room")

    with pytest.raises(TrainingError, match="no room"), BackgroundWriter() as writer:
        writer.submit(fail)
    writer = BackgroundWriter()
    writer.submit(fail)
    with pytest.raises(TrainingError, match="no room"):
        writer.submit(print)


def test_a_manifest_is_of_its_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").write_text("text")
    write_manifest(tmp_path)
    assert damage(tmp_path) is None
    state = json.loads((tmp_path / "manifest.json").read_text())
    assert list(state["files"]) == ["a/file"]


def test_a_drawing_leaves_nothing_behind(tmp_path):
    """Matplotlib's figures hold megabytes, in circles: a run that draws at each save would grow."""
    rows = [{"tokens": step, "train_loss": 5 - step / 10, "val_loss": 4.0} for step in range(20)]
    plot_losses(rows, tmp_path / "loss.png")
    assert not [thing for thing in gc.get_objects() if type(thing).__name__ in ("RendererAgg", "Figure")]
