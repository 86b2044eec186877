"""The interface between a task and the engine: arguments, preparation of a run, metrics and model card."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...data.readers.summary import DataSummary
from ...evaluation.general_text import GeneralText
from ...hub.adapter import Adapter
from ...hub.card import CardText
from ...hub.model_directory import ToPublished
from ..arguments.training import TrainingArguments
from .task import Task


@dataclass
class Job:
    """A prepared training run.

    Attributes:
        accelerator: processes, device and precision.
        model: model in float32, not yet prepared by `accelerator`.
        tokenizer: saved with the model.
        task: batches, losses and evaluation.
        args: training arguments, with all defaults resolved.
        facts: facts about model and data, for `run.yaml` and the model card.
        report: called with the directory of the finished run; demonstrates its model, and may return further numbers of
            it and a "verdict" in words, which are saved with its best evaluation.
        target_tokenizer: tokenizer of the target language, if it is not `tokenizer`.
        published: returns the weights of the published model from the trained ones.
        adapter: low-rank adapters of the model, which `published` merges into it, or None.
        general_text: text on which the loss is measured before and after tuning, or None.
    """

    accelerator: Accelerator
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    args: TrainingArguments
    facts: dict[str, Any]
    report: Callable[[Path], dict[str, float | str] | None]
    target_tokenizer: PreTrainedTokenizerBase | None = None
    published: ToPublished = dict
    adapter: Adapter | None = None
    general_text: GeneralText | None = None


@dataclass(frozen=True)
class DataPreview:
    """How `scratch-gpt data` reads the data of a family.

    Attributes:
        read: called with the data arguments and a seed; returns the summary, and a function that iterates over the
            texts.
        template: template of the special tokens around a text, as in `train_tokenizer`.
    """

    read: Callable[[Any, int], tuple[DataSummary, Callable[[], Iterable[str]]]]
    template: str = "causal"


@dataclass(frozen=True)
class Recipe:
    """A training task.

    Attributes:
        family: name of the folder, in `run.yaml`, and on the command line.
        arguments: dataclasses of the data, model and training arguments.
        prepare: called with an instance of each and the checkpoint to resume from, or None; returns the job. It raises
            all errors of the input, before anything is written.
        card: the family's parts of the model card.
        preview: reads the data for `scratch-gpt data`.
    """

    family: str
    arguments: tuple[type[Any], type[Any], type[Any]]
    prepare: Callable[[Any, Any, Any, Path | None], Job]
    card: CardText
    preview: DataPreview
