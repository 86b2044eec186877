"""A whole run: write down what it is, train, and leave a model directory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...errors import ScratchError
from ...hub.card import render_card
from ...hub.model_directory import ModelDirectory, ToPublished
from ...redaction import redact
from ...untrusted import read_yaml
from ..arguments.training import TrainingArguments
from ..optim.optimizers import build_optimizers
from .run_directory import RECORD, read_metrics, write_run
from .startup import make_output_dir
from .task import Task
from .trainer import Trainer

# wandb records the command line and the address of the git remote by itself, with the secrets in them.
TRACKERS = {"wandb": {"settings": {"x_disable_meta": True, "disable_git": True}}}


@dataclass
class Job:
    """What a run is made of.

    Args:
        accelerator: processes, device and precision.
        model: unprepared, in float32.
        tokenizer: saved beside the weights.
        task: batches and losses.
        args: how to train.
        facts: what the card says of model and data; "title" and "task" among them.
        report: shows what the model in a finished run's directory can do.
        target_tokenizer: of the language that an encoder-decoder writes, where that is another one.
        published: gives, of the weights that are trained, those of the model.
    """

    accelerator: Accelerator
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    args: TrainingArguments
    facts: dict[str, Any]
    report: Callable[[Path], None]
    target_tokenizer: PreTrainedTokenizerBase | None = None
    published: ToPublished = dict

    def trainer(self, folder: Path, resume_from: Path | None) -> Trainer:
        """What trains, and writes into `folder`."""
        directory = ModelDirectory(
            self.model,
            self.tokenizer,
            self.facts["title"],
            lambda: render_card(read_yaml(folder / RECORD), read_metrics(folder)),
            self.target_tokenizer,
            self.published,
        )
        optimizers = build_optimizers(self.model, self.args)
        return Trainer(self.accelerator, self.model, optimizers, self.task, self.args, directory, folder, resume_from)


def run(job: Job, arguments: dict[str, Any], resume_from: Path | None = None) -> Path:
    """Train; every process must call it.

    Args:
        arguments: everything the run was told, for its record.
        resume_from: a checkpoint whose weights the model already has.

    Returns:
        The run's directory, which holds the best model.

    Raises:
        ScratchError: there is no such figure to pick the best model by, or the directory can't be made.
    """
    accelerator, model, args = job.accelerator, job.model, job.args
    if args.metric_for_best_model not in job.task.figures:
        known = ", ".join(job.task.figures)
        raise ScratchError(f"metric_for_best_model is {args.metric_for_best_model!r}, want one of {known}")
    folder = Path(args.output_dir)
    facts = {"parameters": model.num_parameters(), **job.facts}
    if accelerator.is_main_process:
        write_run(make_output_dir(args), arguments, facts, accelerator.num_processes)
    accelerator.wait_for_everyone()
    if args.tracker:
        given = {name: value for name, value in arguments.items() if value is not None}
        accelerator.init_trackers("scratch_gpt", config=redact(given), init_kwargs=TRACKERS)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    try:
        trainer = job.trainer(folder, resume_from)
        gc.freeze()  # what stands now stays, and is passed over when drawings and saves are cleared away
        trainer.run()
    finally:
        gc.unfreeze()
        accelerator.end_training()
    return folder
