"""Pre-train a GPT on text.

    scratch-gpt train language_modeling                          # built-in stories, minutes on two cores
    scratch-gpt train language_modeling --dataset my_text.txt --output_dir runs/mine
    scratch-gpt train language_modeling --config tinyshakespeare_char --dataset FILE
    scratch-gpt train language_modeling --dataset A:0.7 --dataset B:0.3

The output directory contains weights, config, tokenizer, model code, card and loss plot:

    pipeline("text-generation", "runs/mine", trust_remote_code=True)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator
from transformers import PreTrainedTokenizerFast

from ....data.batching.token_shards import Shard
from ....data.readers.summary import DataSummary
from ....hub import loading
from ...engine.recipe import DataPreview, Job, Recipe
from ...engine.startup import start
from ...performance.attention_choice import choose_attention
from .. import common
from ..context import note_length
from . import mixture
from .arguments import ARGUMENTS, MixtureArguments, ModelArguments, PretrainingArguments
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
from .mixed_task import MixedLanguageModeling
from .report import report_language_model
from .task import LanguageModeling


def prepare(
    data: MixtureArguments, model_args: ModelArguments, args: PretrainingArguments, resume_from: Path | None
) -> Job:
    """Prepare a run; see `Recipe.prepare`.

    Args:
        data: data arguments.
        model_args: model arguments.
        args: training arguments.
        resume_from: checkpoint to resume from, or None.
    """
    origin = resume_from or model_args.init_from
    texts = _read(data, model_args, args, is_new=origin is None)
    accelerator = start(args, model_args, resume_from)
    with accelerator.main_process_first():
        tokenizer = _load_or_train_tokenizer(data, model_args, texts, resume_from)
        model, context_length = load_or_build_model(model_args, tokenizer, origin)
    shards, summaries = mixture.prepare(accelerator, texts, tokenizer, data)
    mixture.report(texts, shards, summaries, accelerator.is_main_process)
    if model_args.init_from is not None and model_args.context_length is None:
        context_length = max(tuning_length(model, found) for found in shards)
        note_length(f"rows of {context_length:,} tokens", model.config, args.batch_size * context_length)
    check_context(model.config, max(shards, key=lambda found: len(found["train"].tokens)), context_length)
    choose_attention(model, accelerator.device, context_length, same_length=True)
    prepared = _Prepared(texts, shards, summaries, context_length)
    return _make_job(accelerator, model, tokenizer, prepared, data, model_args, args)


class _Prepared(NamedTuple):
    """The texts, the tokens and the summary of each, and the context length of training."""

    texts: list[mixture.Text]
    shards: list[dict[str, Shard]]
    summaries: list[DataSummary]
    context_length: int


def _read(
    data: MixtureArguments, model_args: ModelArguments, args: PretrainingArguments, is_new: bool
) -> list[mixture.Text]:
    """Check the settings of a new model, then open the texts."""
    if is_new:
        build_config(model_args, vocab_size=1, context_length=default_context_length(model_args), ids={})
    texts = mixture.open_texts(data, args.seed)
    common.check_same_data(mixture.fingerprint(texts), args)
    return texts


def _load_or_train_tokenizer(
    data: MixtureArguments, model_args: ModelArguments, texts: list[mixture.Text], resume_from: Path | None
) -> PreTrainedTokenizerFast:
    """Return the tokenizer of the checkpoint, that of `--tokenizer`, or a new one."""
    if origin := resume_from or model_args.init_from:
        name = str(origin if resume_from else data.tokenizer or origin)
        return loading.open_tokenizer(name, trust_remote_code=model_args.trust_remote_code, report=common.note)
    length = default_context_length(model_args)
    # The tokenizer is trained on the texts that are trained on, and not on separate validation texts.
    known = mixture.fingerprint([replace(text, validation=None) for text in texts])
    return common.build_tokenizer(
        data.tokenizer or "bpe", data.vocab_size, lambda: mixture.documents(texts), known, length
    )


def _make_job(
    accelerator: Accelerator,
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    prepared: _Prepared,
    data: MixtureArguments,
    model_args: ModelArguments,
    args: PretrainingArguments,
) -> Job:
    """Build the job from the results of the previous steps."""
    texts, shards, summaries, context_length = prepared
    summary, is_mixture = mixture.merge(texts, summaries), len(texts) > 1
    floor = None if is_mixture else entropy_floor(shards[0], summary)
    if is_mixture:
        weights, names = [text.weight for text in texts], [each.name for each in summaries]
        settings = tokenizer, context_length, args.batch_size, args.seed
        task: LanguageModeling = MixedLanguageModeling(accelerator, shards, weights, names, *settings)
    else:
        task = LanguageModeling(accelerator, shards[0], tokenizer, context_length, args.batch_size, args.seed, floor)
    style = type(model).__name__ if model_args.init_from else model_args.preset
    facts = text_facts(style, shards[0], summary, data.dataset_license, context_length)
    facts |= mixture.facts_of(texts, shards, summaries)

    def report(folder: Path) -> dict[str, float | str]:
        trust = model_args.trust_remote_code
        if is_mixture and args.baselines:
            common.note("the comparison with simple methods is omitted: it is defined for a single text")
        compared = replace(args, baselines=args.baselines and not is_mixture)
        is_stories = summary.built_in and not is_mixture
        return report_language_model(folder, shards[0], context_length, compared, is_stories, floor, trust)

    return Job(accelerator, model, tokenizer, task, args, facts, report)


RECIPE = Recipe("language_modeling", ARGUMENTS, prepare, CARD, DataPreview(mixture.preview))
