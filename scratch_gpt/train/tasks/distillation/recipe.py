"""Train a small GPT to match the predictions of a larger one (knowledge distillation).

    scratch-gpt train distillation --teacher runs/gpt            # a quarter of its size, built-in stories, minutes
    scratch-gpt train distillation --teacher USER/MODEL --dataset my_text.txt --hidden_size 256 --num_attention_heads 4

Teacher and student share the teacher's tokenizer. The output directory contains weights, config, tokenizer, model code,
card and loss plot:

    pipeline("text-generation", "runs/student", trust_remote_code=True)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ....data.batching.token_shards import Shard
from ....data.readers.corpus import data_fingerprint
from ....data.readers.sources import Source
from ....data.readers.summary import DataSummary
from ....errors import ScratchError
from ....hub import loading
from ...engine.recipe import DataPreview, Job, Recipe
from ...engine.startup import start
from ...performance.attention_choice import choose_attention
from .. import common
from ..language_modeling.build import (
    build_config,
    check_context,
    default_context_length,
    entropy_floor,
    load_or_build_model,
    text_facts,
)
from ..language_modeling.report import report_language_model
from ..text_arguments import DataArguments
from .arguments import ARGUMENTS, DistillationArguments, StudentArguments
from .card import CARD
from .task import Distillation


def prepare(
    data: DataArguments, model_args: StudentArguments, args: DistillationArguments, resume_from: Path | None
) -> Job:
    """Prepare a run; see `Recipe.prepare`.

    Args:
        data: data arguments.
        model_args: the student, and its teacher.
        args: training arguments.
        resume_from: checkpoint to resume from, or None.
    """
    source, validation = _read(data, model_args, args)
    accelerator = start(args, model_args, resume_from)
    with accelerator.main_process_first():
        tokenizer, teacher = _load_teacher(model_args)
        student, context_length = _load_or_build_student(model_args, tokenizer, teacher, resume_from, accelerator)
    shards, summary = common.prepare_shards(accelerator, source, validation, tokenizer, data)
    common.report_data(summary, accelerator.is_main_process)
    check_context(student.config, shards, context_length)
    return _make_job(accelerator, student, teacher, tokenizer, shards, summary, context_length, data, model_args, args)


def _read(
    data: DataArguments, model_args: StudentArguments, args: DistillationArguments
) -> tuple[Source, Source | None]:
    """Check the settings, then open the texts."""
    if model_args.teacher is None:
        raise ScratchError("there is no model to learn from: give one with --teacher")
    if data.tokenizer is not None or data.vocab_size is not None:
        raise ScratchError("the student has the teacher's tokenizer: remove --tokenizer and --vocab_size")
    if model_args.init_from is None:
        build_config(model_args, vocab_size=1, context_length=default_context_length(model_args), ids={})
    source, validation = common.open_sources(data, args.seed)
    common.check_same_data(data_fingerprint(source.origin, validation.origin if validation else None), args)
    return source, validation


def _load_teacher(model_args: StudentArguments) -> tuple[PreTrainedTokenizerFast, Any]:
    """Return the tokenizer of both models, and the teacher."""
    name, trust = str(model_args.teacher), model_args.trust_remote_code
    tokenizer = loading.open_tokenizer(name, trust_remote_code=trust, report=common.note)
    teacher = loading.load_model(name, trust, "causal")
    loading.check_vocabulary(tokenizer, teacher.config.vocab_size)
    return tokenizer, teacher


def _load_or_build_student(
    model_args: StudentArguments,
    tokenizer: PreTrainedTokenizerFast,
    teacher: Any,
    resume_from: Path | None,
    accelerator: Accelerator,
) -> tuple[Any, int]:
    """Return the student, and the context length of training, at most the teacher's positions."""
    origin, vocab_size = resume_from or model_args.init_from, teacher.config.vocab_size
    positions = getattr(teacher.config, "max_position_embeddings", None) or default_context_length(model_args)
    if model_args.context_length is None and origin is None:
        model_args = replace(model_args, context_length=min(positions, default_context_length(model_args)))
    student, context_length = load_or_build_model(model_args, tokenizer, origin, vocab_size)
    if student.config.vocab_size != vocab_size:
        raise ScratchError(
            f"the student has a vocabulary of {student.config.vocab_size} tokens and the teacher of {vocab_size}: "
            "start from a model with the teacher's tokenizer"
        )
    if model_args.context_length is None:
        context_length = min(context_length, positions)
    elif context_length > positions:
        raise ScratchError(f"context_length is {context_length}, the teacher takes at most {positions} tokens")
    for model in (teacher, student):
        choose_attention(model, accelerator.device, context_length, same_length=True)
    return student, context_length


def _make_job(
    accelerator: Accelerator,
    student: Any,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    shards: dict[str, Shard],
    summary: DataSummary,
    context_length: int,
    data: DataArguments,
    model_args: StudentArguments,
    args: DistillationArguments,
) -> Job:
    """Build the job from the results of the previous steps."""
    floor = entropy_floor(shards, summary)
    task = Distillation(accelerator, teacher, shards, tokenizer, context_length, args, floor)
    style = type(student).__name__ if model_args.init_from else model_args.preset
    teacher_name = Path(str(model_args.teacher)).name
    facts = text_facts(style, shards, summary, data.dataset_license, context_length, teacher=teacher_name)

    def report(folder: Path) -> dict[str, float | str]:
        trust = model_args.trust_remote_code
        return report_language_model(folder, shards, context_length, args, summary.built_in, floor, trust)

    return Job(accelerator, student, tokenizer, task, args, facts, report)


RECIPE = Recipe("distillation", ARGUMENTS, prepare, CARD, DataPreview(common.preview_texts))
