"""Options of a run: gradient checkpointing, progress bars, processes, cores."""

import dataclasses
import io
import json
import os
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate import Accelerator
from helpers.models import tiny_model
from helpers.processes import PRETRAIN, TINY_RUN, run_here
from rich.console import Console
from transformers import PreTrainedModel

from scratch_gpt import train_tokenizer
from scratch_gpt.data.readers.preferences import Preference
from scratch_gpt.data.readers.sources import open_source
from scratch_gpt.hardware import LAUNCHER_VARIABLES, available_cores, use_all_cores
from scratch_gpt.train.engine import reporting
from scratch_gpt.train.engine.reporting import Reporter
from scratch_gpt.train.engine.run import tracker_config
from scratch_gpt.train.tasks import FAMILIES, recipe_of
from scratch_gpt.train.tasks.common import prepare_shards
from scratch_gpt.train.tasks.dpo.task import EncodedPairs, Preferences
from scratch_gpt.train.tasks.language_modeling.task import LanguageModeling
from scratch_gpt.train.tasks.text_arguments import DataArguments


@pytest.mark.parametrize("flag", ["--gradient_checkpointing", "--no-gradient_checkpointing"])
def test_gradient_checkpointing_is_enabled_on_request(flag, tmp_path, text_file, monkeypatch):
    calls, enable = [], PreTrainedModel.gradient_checkpointing_enable
    monkeypatch.setattr(
        PreTrainedModel, "gradient_checkpointing_enable", lambda self, *a, **k: calls.append(enable(self, *a, **k))
    )
    options = ("--output_dir", str(tmp_path / "run"), "--dataset", str(text_file), *TINY_RUN, "--max_steps", "1")
    run_here(PRETRAIN, *options, flag)
    assert len(calls) == (flag == "--gradient_checkpointing")


def test_only_the_main_process_writes_metrics(tmp_path):
    rows = "".join(json.dumps({"step": step}) + "\n" for step in range(5))
    (tmp_path / "metrics.jsonl").write_text(rows)
    with Reporter(tmp_path, total_steps=9, step=2, enabled=False, task=LanguageModeling) as reporter:
        reporter.record({"step": 3, "train_loss": 1.0})
    assert (tmp_path / "metrics.jsonl").read_text() == rows
    with Reporter(tmp_path, total_steps=9, step=2, enabled=True, task=LanguageModeling) as reporter:
        reporter.record({"step": 3, "train_loss": 1.0})
    kept = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert kept == [{"step": 0}, {"step": 1}, {"step": 2}, {"step": 3, "train_loss": 1.0}]


def test_without_a_progress_bar_a_line_is_printed_now_and_then(tmp_path, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(reporting, "time", SimpleNamespace(monotonic=lambda: now[0]))
    row = {"train_loss": 1.5, "learning_rate": 0.1, "tokens_per_second": 2000.0}
    with Reporter(tmp_path, total_steps=1000, step=20, enabled=True, task=LanguageModeling) as reporter:
        for seconds in range(0, 61, 10):
            now[0] = float(seconds)
            reporter.live(20 + seconds + 1, row)
    assert capsys.readouterr().out.splitlines() == [
        "step     51 of 1,000  loss 1.5000  2,000 tokens/s  about 15 min left",
        "step     81 of 1,000  loss 1.5000  2,000 tokens/s  about 15 min left",
    ]


def test_time_left_is_empty_while_it_is_unknown(tmp_path):
    console = Console(force_terminal=True, width=150, file=io.StringIO(), color_system=None)
    with Reporter(tmp_path, total_steps=9, step=0, enabled=True, task=LanguageModeling) as reporter:
        console.print(reporter.progress.make_tasks_table(reporter.progress.tasks))
    assert "step 0/9" in console.file.getvalue()
    assert "left" not in console.file.getvalue()


def test_available_cores_are_counted_on_every_platform(monkeypatch):
    assert available_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert available_cores() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1


@pytest.mark.parametrize(
    ("environment", "num_threads", "expected"),
    [
        ({}, None, 6),
        ({"OMP_NUM_THREADS": "2"}, None, 2),
        ({"OMP_NUM_THREADS": "4,1"}, None, 4),
        ({"OMP_NUM_THREADS": "2"}, 3, 3),
        ({"OMP_NUM_THREADS": "0"}, None, 6),
        ({"OMP_NUM_THREADS": "many"}, None, 6),
        # What torchrun, and accelerate launch with one process, set by themselves.
        ({"OMP_NUM_THREADS": "1", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}, None, 3),
        ({"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}, None, 6),
    ],
)
def test_threads_are_those_of_the_user_or_all_cores(environment, num_threads, expected, monkeypatch):
    """Regression: OMP_NUM_THREADS was ignored, and a run on a busy machine was ten times slower than needed."""
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", *LAUNCHER_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("scratch_gpt.hardware.available_cores", lambda: 6)
    before = torch.get_num_threads()
    try:
        use_all_cores(num_threads)
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_preference_metrics_are_means_since_the_last_call():
    tokenizer = train_tokenizer(["abcdefgh"], "char", model_max_length=64)
    model, reference = (tiny_model("llama", vocab_size=len(tokenizer)) for _ in range(2))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    pairs = EncodedPairs([Preference("a", "b", c) for c in "cdefgh"], tokenizer, 64)
    task = Preferences(Accelerator(cpu=True), {"train": pairs, "validation": pairs}, reference, 0, 24, 0, 0.3)
    assert task.training_metrics() == {}
    batches = [task.make_batch(0, number) for number in range(len(task.train.plan(0)))]
    assert len(batches) > 1
    margins = []
    for batch in batches:
        task.loss(model, batch)
        with torch.no_grad():
            margins.append(task._losses(model, batch)[1])
    all_margins = torch.cat(margins)
    assert len(all_margins) == len(pairs)
    metrics = task.training_metrics()
    assert metrics["margin"] == pytest.approx(all_margins.mean().item(), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx((all_margins > 0).float().mean().item())
    assert task.training_metrics() == {}


@pytest.mark.parametrize("is_terminal", [True, False])
def test_tokenising_shows_a_progress_bar_in_a_terminal(is_terminal, text_file, monkeypatch):
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return is_terminal

    tokenizer = train_tokenizer([text_file.read_text()], "char")
    monkeypatch.setattr("sys.stderr", screen := Screen())
    source = open_source(str(text_file))
    prepare_shards(Accelerator(cpu=True), source, None, tokenizer, DataArguments(dataset=str(text_file)))
    assert ("tokenising" in screen.getvalue()) == is_terminal


@pytest.mark.parametrize("family", FAMILIES)
def test_tensorboard_records_the_arguments_of_every_task(family, tmp_path):
    """It refuses a list, such as lora_targets; every default and a list are recorded."""
    fields = [field for part in recipe_of(family).arguments for field in dataclasses.fields(part)]
    given = {f.name: f.default if f.default_factory is dataclasses.MISSING else f.default_factory() for f in fields}
    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=str(tmp_path))
    accelerator.init_trackers(
        "run", config=tracker_config({**given, "targets": ["all-linear", "token ghp_" + "a1" * 18]})
    )
    accelerator.end_training()
    (recorded,) = tmp_path.rglob("hparams.yml")
    assert "ghp_" not in recorded.read_text()
    assert yaml.safe_load(recorded.read_text())["targets"].startswith("['all-linear'")
