"""Train a small GPT to match the predictions of a larger one (knowledge distillation).

    scratch-gpt train distillation --teacher runs/gpt            # a quarter of its size, built-in stories, minutes
    scratch-gpt train distillation --teacher USER/MODEL --dataset my_text.txt --hidden_size 256 --num_attention_heads 4

Teacher and student share the teacher's tokenizer. The output directory contains weights, config, tokenizer, model code,
card and loss plot:

    pipeline("text-generation", "runs/student", trust_remote_code=True)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ....data.batching.token_shards import Shard, shard_sizes
from ....data.corpora import stories
from ....data.readers.corpus import data_fingerprint
from ....data.readers.sources import Source
from ....data.readers.summary import DataSummary
from ....errors import ScratchError
from ....evaluation.reload import report_reloaded
from ....hub import loading
from ....hub.model_directory import set_generation_defaults
from ...engine.recipe import DataPreview, Job, Recipe
from ...engine.startup import start
from ...engine.task import check_sharding
from ...performance.attention_choice import choose_attention
from .. import common
from ..language_modeling.build import build_config, build_model, check_context
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
        resume_from: checkpoint to resume from, if any.

    Raises:
        ScratchError: there is no teacher, or student and teacher don't match.
    """
    source, validation = _read(data, model_args, args)
    accelerator = start(args)
    check_sharding(Distillation, accelerator)
    with accelerator.main_process_first():
        tokenizer = _load_tokenizer(model_args)
        student, teacher = _load_models(model_args, tokenizer, resume_from, accelerator)
    shards, summary = common.prepare_shards(accelerator, source, validation, tokenizer, data)
    common.report_data(summary, accelerator.is_main_process)
    return _make_job(accelerator, student, teacher, tokenizer, shards, summary, data, model_args, args)


def _read(
    data: DataArguments, model_args: StudentArguments, args: DistillationArguments
) -> tuple[Source, Source | None]:
    """Open the text, after the settings are checked."""
    if model_args.teacher is None:
        raise ScratchError("there is no model to learn from: give one with --teacher")
    if data.tokenizer is not None or data.vocab_size is not None:
        raise ScratchError("the student has the teacher's tokenizer: leave --tokenizer and --vocab_size out")
    if model_args.init_from is None:
        build_config(model_args, vocab_size=1, context_length=_context_length(model_args), ids={})
    source, validation = common.open_sources(data, args.seed)
    common.check_same_data(data_fingerprint(source.origin, validation.origin if validation else None), args)
    return source, validation


def _load_tokenizer(model_args: StudentArguments) -> PreTrainedTokenizerFast:
    return loading.open_tokenizer(str(model_args.teacher), trust_remote_code=model_args.trust_remote_code)


def _load_models(
    model_args: StudentArguments, tokenizer: PreTrainedTokenizerFast, resume_from: Path | None, accelerator: Accelerator
) -> tuple[Any, PreTrainedModel]:
    """The student (of the checkpoint, or a new one) and the teacher."""
    teacher: Any = loading.load_model(str(model_args.teacher), model_args.trust_remote_code, "causal")
    loading.check_vocabulary(tokenizer, teacher.config.vocab_size)
    length = _context_length(model_args)
    if (origin := resume_from or model_args.init_from) is not None:
        dropouts = common.dropout_fields(model_args)
        student: Any = loading.load_model(origin, model_args.trust_remote_code, "causal", **dropouts)
    else:
        ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        student = build_model(build_config(model_args, teacher.config.vocab_size, length, ids))
        set_generation_defaults(student, tokenizer)
    if student.config.vocab_size != teacher.config.vocab_size:
        raise ScratchError(
            f"the student has a vocabulary of {student.config.vocab_size} tokens and the teacher of "
            f"{teacher.config.vocab_size}: start from a model with the teacher's tokenizer"
        )
    for model in (student, teacher):
        choose_attention(model, accelerator.device, length, same_length=True)
    return student, teacher


def _make_job(
    accelerator: Accelerator,
    student: Any,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    shards: dict[str, Shard],
    summary: DataSummary,
    data: DataArguments,
    model_args: StudentArguments,
    args: DistillationArguments,
) -> Job:
    """The job, from what the steps before it returned."""
    length = _context_length(model_args)
    for model in (student, teacher):
        check_context(model.config, shards, length)
    held_out, is_stories = shards["validation"], summary.built_in
    floor = stories.entropy_per_story() * len(held_out.ends) / len(held_out.tokens) if is_stories else None
    task = Distillation(accelerator, teacher, shards, tokenizer, length, args, floor)
    style = type(student).__name__ if model_args.init_from else model_args.preset
    facts = common.run_facts(
        f"{style} distilled on {summary.name}",
        style,
        summary,
        data.dataset_license,
        prompt=" ".join(summary.samples[0][:20].split()),
        context_length=length,
        teacher=Path(str(model_args.teacher)).name,
        **{split: shard_sizes(shard) for split, shard in shards.items()},
    )

    def report(folder: Path) -> None:
        report_reloaded(folder, shards, is_stories, model_args.trust_remote_code)

    return Job(accelerator, student, tokenizer, task, args, facts, report)


def _context_length(model_args: StudentArguments) -> int:
    return common.DEFAULT_CONTEXT_LENGTH if model_args.context_length is None else model_args.context_length


RECIPE = Recipe("distillation", ARGUMENTS, prepare, CARD, DataPreview(common.preview_texts))
