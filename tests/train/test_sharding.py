"""Runs whose weights are sharded over processes (FSDP2) on CPUs have the losses of a run with one process, and their
models and checkpoints are ordinary ones."""

import json
from pathlib import Path

import pytest
import torch
from helpers.processes import PROJECT, TINY_RUN, TWO_PROCESSES, needs_compiler, run_here, run_python
from helpers.training import metrics, weights

from scratch_gpt.train.optim.whole_matrices import rows_of_processes
from scratch_gpt.train.tasks import FAMILIES

SMALL = ("--num_threads", "1", "--precision", "fp32", "--log_every", "1", "--max_steps", "4", "--eval_every", "2")
TEXTS = (*SMALL, "--dataset", "TABLE", "--tokens_per_batch", "256", "--vocab_size", "120", "--dropout", "0")
TEXTS += ("--hidden_size", "32", "--num_hidden_layers", "2", "--num_attention_heads", "2", "--context_length", "32")
PAIRS = (*SMALL, "--num_pairs", "200", "--tokens_per_batch", "256", "--vocab_size", "290", "--dropout", "0")
PAIRS += ("--hidden_size", "32", "--encoder_layers", "1", "--decoder_layers", "1", "--num_attention_heads", "2")
ONE_TEXT = (*TINY_RUN, *SMALL, "--dataset", "TEXT", "--dropout", "0", "--no-baselines")
RUNS = {
    "language_modeling": ONE_TEXT,
    "compiled": (*ONE_TEXT, "--compile", "on"),
    "average": (*ONE_TEXT, "--average_decay", "0.9", "--optimizer", "adamw"),
    "classification": TEXTS,
    "masked_lm": (*TEXTS, "--mask_probability", "0.3"),
    "translation": PAIRS,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("sharding")
    lines = [f"One day, Anna has {i} old lamps and a dog that sleeps in house {i * 7 % 13}." for i in range(200)]
    (folder / "text.txt").write_text("\n".join(lines) + "\n")
    (folder / "table.tsv").write_text("".join(f"{line}\t{'ab'[i % 2]}\n" for i, line in enumerate(lines)))
    return {"TEXT": str(folder / "text.txt"), "TABLE": str(folder / "table.tsv")}


def train(name: str, folder: Path, data: dict[str, str], *more: str, sharded: bool) -> list[dict]:
    """Run a task with one process or, sharded, with two, and return its metrics."""
    script = str(PROJECT / "training" / f"{name if name in FAMILIES else 'language_modeling'}.py")
    options = [data.get(option, option) for option in (*RUNS[name], *more, "--output_dir", str(folder))]
    if sharded:
        run_python(*TWO_PROCESSES, script, *options, "--shard", cwd=PROJECT)
    else:
        run_here(script, *options, "--gradient_accumulation_steps", "2")
    return metrics(folder)


RELEASE = ("average", "classification", "masked_lm")
MARKS = {name: [pytest.mark.release if name in RELEASE else pytest.mark.slow] for name in RUNS}
MARKS["compiled"].append(needs_compiler)
CASES = [pytest.param(name, marks=marks) for name, marks in MARKS.items()]


@pytest.mark.parametrize("name", CASES)
def test_sharded_run_has_the_losses_of_one_process(name, data, tmp_path):
    one, two = (train(name, tmp_path / str(sharded), data, sharded=sharded) for sharded in (False, True))
    assert len(one) == len(two) == 4
    for alone, shared in zip(one, two, strict=True):
        assert alone["tokens"] == shared["tokens"]
        for metric in ("train_loss", "grad_norm", "val_loss"):
            if metric in alone:
                assert shared[metric] == pytest.approx(alone[metric], abs=1e-5), metric
    ours, theirs = (weights(tmp_path / str(sharded)) for sharded in (False, True))
    assert ours.keys() == theirs.keys()
    for weight, tensor in ours.items():
        torch.testing.assert_close(theirs[weight], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_replicas_are_sharded_and_resumed_as_one(data, tmp_path):
    """Two replicas of the model, each sharded over two of four processes, are then one, sharded over two."""
    name, longer = "language_modeling", ("--save_every", "2")
    script, run = str(PROJECT / "training" / f"{name}.py"), str(tmp_path / "run")
    options = [data.get(option, option) for option in RUNS[name]]
    run_here(script, *options, "--output_dir", str(tmp_path / "one"), "--gradient_accumulation_steps", "4")
    four = (*TWO_PROCESSES[:-1], "4")
    first = ("--output_dir", run, *longer, "--max_steps", "2", "--shard", "--replicas", "2")
    run_python(*four, script, *options, *first, cwd=PROJECT)
    resume = ("--resume", "--allow_changed_settings", "--max_steps", "4", "--replicas", "1")
    rest = ("--output_dir", run, *resume, "--gradient_accumulation_steps", "2")
    run_python(*TWO_PROCESSES, script, *rest, cwd=PROJECT)
    one, several = metrics(tmp_path / "one"), metrics(tmp_path / "run")
    assert [row["tokens"] for row in one] == [row["tokens"] for row in several]
    for alone, shared in zip(one, several, strict=True):
        assert shared["train_loss"] == pytest.approx(alone["train_loss"], abs=1e-5)
        assert shared["grad_norm"] == pytest.approx(alone["grad_norm"], abs=1e-5)


@pytest.mark.slow
def test_a_sharded_run_is_resumed_without_sharding_and_back(data, tmp_path):
    """From two processes to one and to two again; no row is lost or repeated."""
    name, longer = "language_modeling", ("--save_every", "2", "--keep_last", "9", "--max_steps", "8")
    expected = train(name, tmp_path / "one", data, *longer, sharded=False)
    script, run = str(PROJECT / "training" / f"{name}.py"), str(tmp_path / "run")
    train(name, tmp_path / "run", data, *longer, "--max_steps", "2", sharded=True)
    resume = (script, "--output_dir", run, "--resume", "--allow_changed_settings", "--max_steps")
    run_here(*resume, "4", "--no-shard", "--gradient_accumulation_steps", "2")
    run_python(*TWO_PROCESSES, *resume, "8", "--shard", "--gradient_accumulation_steps", "1", cwd=PROJECT)
    found = metrics(tmp_path / "run")
    assert [row["tokens"] for row in found] == [row["tokens"] for row in expected]
    assert json.loads((tmp_path / "run/checkpoints/step-00000008/training_state.json").read_text())["step"] == 8


def test_rows_are_divided_as_torch_chunks_them():
    for rows, processes in ((8, 2), (7, 3), (2, 4), (5, 8)):
        chunks = [len(chunk) for chunk in torch.empty(rows).chunk(processes)]
        assert rows_of_processes(rows, processes) == chunks + [0] * (processes - len(chunks))
