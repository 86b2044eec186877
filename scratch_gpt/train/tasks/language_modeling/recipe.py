"""Pre-train a GPT on text.

    scratch-gpt train language_modeling                          # built-in stories, minutes on two cores
    scratch-gpt train language_modeling --dataset my_text.txt --output_dir runs/mine
    scratch-gpt train language_modeling --config tinyshakespeare_char --dataset FILE

The output directory contains weights, config, tokenizer, model code, card and loss plot:

    pipeline("text-generation", "runs/mine", trust_remote_code=True)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedTokenizerFast

from ....data.batching.token_shards import Shard
from ....data.readers.corpus import data_fingerprint
from ....data.readers.sources import Source
from ....data.readers.summary import DataSummary
from ....hub import loading
from ...engine.recipe import DataPreview, Job, Recipe
from ...engine.startup import start
from ...performance.attention_choice import choose_attention
from .. import common
from ..context import note_length
from ..text_arguments import DataArguments
from .arguments import ARGUMENTS, ModelArguments, PretrainingArguments
from .build import (
    build_config,
    check_context,
    default_context_length,
    entropy_floor,
    load_or_build_model,
    text_facts,
    tuning_length,
)
from .card import CARD
from .report import report_language_model
from .task import LanguageModeling


def prepare(
    data: DataArguments, model_args: ModelArguments, args: PretrainingArguments, resume_from: Path | None
) -> Job:
    """Prepare a run; see `Recipe.prepare`.

    Args:
        data: data arguments.
        model_args: model arguments.
        args: training arguments.
        resume_from: checkpoint to resume from, or None.
    """
    origin = resume_from or model_args.init_from
    source, validation = _read(data, model_args, args, is_new=origin is None)
    accelerator = start(args, model_args, resume_from)
    with accelerator.main_process_first():
        tokenizer = _load_or_train_tokenizer(data, model_args, source, resume_from)
        model, context_length = load_or_build_model(model_args, tokenizer, origin)
    shards, summary = common.prepare_shards(accelerator, source, validation, tokenizer, data)
    common.report_data(summary, accelerator.is_main_process)
    if model_args.init_from is not None and model_args.context_length is None:
        context_length = tuning_length(model, shards)
        note_length(f"rows of {context_length:,} tokens", model.config, args.batch_size * context_length)
    check_context(model.config, shards, context_length)
    choose_attention(model, accelerator.device, context_length, same_length=True)
    return _make_job(accelerator, model, tokenizer, shards, summary, context_length, data, model_args, args)


def _read(
    data: DataArguments, model_args: ModelArguments, args: PretrainingArguments, is_new: bool
) -> tuple[Source, Source | None]:
    """Check the settings of a new model, then open the texts."""
    if is_new:
        build_config(model_args, vocab_size=1, context_length=default_context_length(model_args), ids={})
    source, validation = common.open_sources(data, args.seed)
    common.check_same_data(data_fingerprint(source.origin, validation.origin if validation else None), args)
    return source, validation


def _load_or_train_tokenizer(
    data: DataArguments, model_args: ModelArguments, source: Source, resume_from: Path | None
) -> PreTrainedTokenizerFast:
    """Return the tokenizer of the checkpoint, that of `--tokenizer`, or a new one."""
    if origin := resume_from or model_args.init_from:
        name = str(origin if resume_from else data.tokenizer or origin)
        return loading.open_tokenizer(name, trust_remote_code=model_args.trust_remote_code, report=common.note)
    length = default_context_length(model_args)
    return common.build_tokenizer(
        data.tokenizer or "bpe", data.vocab_size, source.documents, source.fingerprint(), length
    )


def _make_job(
    accelerator: Accelerator,
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    shards: dict[str, Shard],
    summary: DataSummary,
    context_length: int,
    data: DataArguments,
    model_args: ModelArguments,
    args: PretrainingArguments,
) -> Job:
    """Build the job from the results of the previous steps."""
    floor = entropy_floor(shards, summary)
    task = LanguageModeling(accelerator, shards, tokenizer, context_length, args.batch_size, args.seed, floor)
    style = type(model).__name__ if model_args.init_from else model_args.preset
    facts = text_facts(style, shards, summary, data.dataset_license, context_length)

    def report(folder: Path) -> dict[str, float | str]:
        trust = model_args.trust_remote_code
        return report_language_model(folder, shards, context_length, args, summary.built_in, floor, trust)

    return Job(accelerator, model, tokenizer, task, args, facts, report)


RECIPE = Recipe("language_modeling", ARGUMENTS, prepare, CARD, DataPreview(common.preview_texts))
