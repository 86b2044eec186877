"""What a family of tasks provides to the engine: its arguments, how a run is prepared, its metrics and its card."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...data.readers.summary import DataSummary
from ...hub.card import CardText
from ...hub.model_directory import ToPublished
from ..arguments.training import TrainingArguments
from .task import Task


@dataclass
class Job:
    """What a run consists of.

    Attributes:
        accelerator: processes, device and precision.
        model: unprepared, in float32.
        tokenizer: saved beside the weights.
        task: batches and losses.
        args: training arguments, with all defaults resolved.
        facts: what `run.yaml` records and the card shows of model and data; "title" among them.
        report: shows what the model in a finished run's directory can do.
        target_tokenizer: of the language that an encoder-decoder writes, where it has one of its own.
        published: returns, of the trained weights, those of the published model.
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


@dataclass(frozen=True)
class DataPreview:
    """How `scratch-gpt data` reads the data of a family.

    Attributes:
        read: called with the data arguments and a seed; returns the summary, and a function that iterates over the
            texts.
        template: special tokens around a text, as of `train_tokenizer`.
    """

    read: Callable[[Any, int], tuple[DataSummary, Callable[[], Iterable[str]]]]
    template: str = "causal"


@dataclass(frozen=True)
class Recipe:
    """A family of tasks.

    Attributes:
        family: its name: of the folder, in `run.yaml`, and on the command line.
        arguments: dataclasses of the data, model and training arguments.
        prepare: called with an instance of each and the checkpoint to resume from, or None; returns the job. Whatever
            can be refused is refused there, before anything is written.
        card: what the model card says beyond what every card does.
        preview: reads the data for `scratch-gpt data`.
    """

    family: str
    arguments: tuple[type[Any], type[Any], type[Any]]
    prepare: Callable[[Any, Any, Any, Path | None], Job]
    card: CardText
    preview: DataPreview
