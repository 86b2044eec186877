"""A new task needs one folder and one line in the registry; here, the folder is temporary."""

import sys
import textwrap

import pytest
from helpers.processes import TINY_RUN, run_here
from helpers.training import metrics

from scratch_gpt.train import tasks

FILES = {
    "__init__.py": '"""Language modelling that also counts right predictions."""',
    "arguments.py": """
        from dataclasses import dataclass

        from scratch_gpt.train.arguments.training import argument
        from scratch_gpt.train.tasks.language_modeling.arguments import ModelArguments, PretrainingArguments
        from scratch_gpt.train.tasks.text_arguments import DataArguments


        @dataclass
        class CountingArguments(PretrainingArguments):
            loss_factor: float = argument(1.0, "Factor of the loss.", more_than=0, at_most=8)


        ARGUMENTS = (DataArguments, ModelArguments, CountingArguments)
        """,
    "recipe.py": '''
        """Count right predictions."""

        from dataclasses import replace

        import torch

        from scratch_gpt.metrics import Metric
        from scratch_gpt.train.tasks.language_modeling import recipe
        from scratch_gpt.train.tasks.language_modeling.task import LanguageModeling

        from .arguments import ARGUMENTS

        METRICS = (Metric("val_loss", "loss"), Metric("val_hits", "hits", "tokens", higher_is_better=True, show="hits"))


        class Counting(LanguageModeling):
            metrics = METRICS

            def loss(self, model, batch):
                return super().loss(model, batch) * self.factor

            def evaluate(self, model):
                rows = list(self.validation_rows.ordered_batches(1))
                with torch.no_grad():
                    right = [model(input_ids=r["input_ids"]).logits.argmax(-1) == r["labels"] for r in rows]
                hits = sum(int(each.sum()) for each in right)
                return {**super().evaluate(model), "val_hits": float(hits)}


        def prepare(data, model_args, args, resume_from):
            job = recipe.prepare(data, model_args, args, resume_from)
            job.task.__class__, job.task.factor = Counting, args.loss_factor
            job.facts["lesson"] = "count"
            return job


        CARD = replace(recipe.CARD, data=(("lesson", "{{ lesson }}"),), metrics=METRICS)
        RECIPE = replace(recipe.RECIPE, family="counting", arguments=ARGUMENTS, prepare=prepare, card=CARD)
        ''',
}


@pytest.fixture
def family(tmp_path, monkeypatch):
    (tmp_path / "counting_family").mkdir()
    for name, text in FILES.items():
        (tmp_path / "counting_family" / name).write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(tasks.FAMILIES, "counting", "counting_family")
    yield "counting"
    for name in [name for name in sys.modules if name.startswith("counting_family")]:
        del sys.modules[name]


def test_a_new_family_trains_reports_and_resumes_from_a_folder_and_a_registry_line(family, text_file, tmp_path):
    options = ("train", family, "--dataset", str(text_file), *TINY_RUN, "--max_steps", "4", "--eval_every", "2")
    options += ("--metric_for_best_model", "val_hits", "--loss_factor", "2")
    result = run_here("scratch-gpt", *options, "--output_dir", str(tmp_path / "run"), cwd=tmp_path)
    assert "hits" in result.stdout
    rows = metrics(tmp_path / "run")
    assert all("val_hits" in row for row in rows if "val_loss" in row)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| lesson | `count` |" in card
    assert "| hits, tokens |" in card
    assert "bit-equal" in run_here("scratch-gpt", "verify", str(tmp_path / "run"), cwd=tmp_path).stdout


def test_a_new_family_is_listed_has_help_and_checks_its_arguments(family, tmp_path):
    assert "counting            Count right predictions." in run_here("scratch-gpt", "train", cwd=tmp_path).stdout
    assert "--loss_factor FLOAT" in run_here("scratch-gpt", "train", family, "--help", cwd=tmp_path).stdout
    refused = run_here("scratch-gpt", "train", family, "--loss_factor", "9", cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert "loss_factor is 9.0, want more than 0 and at most 8" in refused.stderr
