"""A whole run: write down what it is, train, and leave a model directory."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import ScratchError
from ..hub.card import render_card
from ..hub.model_directory import ModelDirectory
from .arguments import TrainingArguments
from .loop import Trainer
from .optimization import build_optimizers
from .reporting import write_run
from .setup import make_output_dir
from .task import Task


def run(
    accelerator: Accelerator,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    args: TrainingArguments,
    arguments: dict[str, Any],
    facts: dict[str, Any],
    resume_from: Path | None = None,
    target_tokenizer: PreTrainedTokenizerBase | None = None,
) -> Path:
    """Train `model` on `task`; every process must call it.

    Args:
        arguments: everything the run was told, for its record.
        facts: what the card says of model and data; "title" and "task" among them.
        resume_from: a checkpoint whose weights `model` already has.
        target_tokenizer: of the language that an encoder-decoder writes, where that is another one.

    Returns:
        The run's directory, which holds the best model.

    Raises:
        ScratchError: there is no such figure to pick the best model by, or the directory can't be made.
    """
    if args.metric_for_best_model not in task.figures:
        known = ", ".join(task.figures)
        raise ScratchError(f"metric_for_best_model is {args.metric_for_best_model!r}, want one of {known}")
    folder = Path(args.output_dir)
    facts = {**facts, "parameters": model.num_parameters()}
    if accelerator.is_main_process:
        write_run(make_output_dir(args), arguments, facts, accelerator.num_processes)
    accelerator.wait_for_everyone()
    if args.tracker:
        accelerator.init_trackers("scratch_gpt", config={k: v for k, v in arguments.items() if v is not None})
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    directory = ModelDirectory(model, tokenizer, facts["title"], partial(render_card, folder), target_tokenizer)
    try:
        Trainer(accelerator, model, build_optimizers(model, args), task, args, directory, resume_from).run()
    finally:
        accelerator.end_training()
    return folder
