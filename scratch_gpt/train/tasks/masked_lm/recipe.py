"""Pre-train an encoder with masked language modelling, as a starting point for classifiers.

    scratch-gpt train masked_lm                                  # built-in stories, minutes on two cores
    scratch-gpt train masked_lm --dataset my_text.txt --output_dir runs/mine
    scratch-gpt train classification --init_from runs/encoder --dataset reviews.tsv

The output directory contains weights, config, tokenizer, model code, card and loss plot:

    pipeline("fill-mask", "runs/encoder", trust_remote_code=True)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedTokenizerFast

from ....data.batching.token_lists import Tokens
from ....data.readers.corpus import data_fingerprint
from ....data.readers.sources import Source
from ....data.readers.summary import DataSummary
from ....errors import ScratchError
from ....evaluation.masked_lm import report_predictions
from ....evaluation.positions import position_limit
from ....hub import loading
from ...engine.recipe import DataPreview, Job, Recipe
from ...engine.startup import start
from ...performance.attention_choice import choose_attention
from .. import common
from ..context import note_length
from ..encoder_arguments import EncoderModelArguments
from ..encoder_model import max_length, new_context_length, note_fewer_positions
from ..initial_model import load_initial_model
from ..text_arguments import DataArguments
from .arguments import ARGUMENTS, MaskedTrainingArguments
from .build import build_masked_model, check_model, rows_of_documents
from .card import CARD
from .task import MaskedLanguageModeling

MAX_TUNING_MASKED = 512  # tokens of a row by default, as BERT's and RoBERTa's


def prepare(
    data: DataArguments, model_args: EncoderModelArguments, args: MaskedTrainingArguments, resume_from: Path | None
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
        model = _load_or_build_model(model_args, tokenizer, origin, accelerator)
    rows, summary = _encode(accelerator, source, validation, model, tokenizer, data, model_args, args.tokens_per_batch)
    return _make_job(accelerator, model, tokenizer, rows, summary, data, model_args, args)


def _read(
    data: DataArguments, model_args: EncoderModelArguments, args: MaskedTrainingArguments, is_new: bool
) -> tuple[Source, Source | None]:
    """Check the settings of a new model, then open the texts."""
    if model_args.context_length is not None and model_args.context_length < 3:
        raise ScratchError(f"context_length is {model_args.context_length}, want at least 3: <bos>, a token, <eos>")
    if is_new:
        check_model(model_args)
    source, validation = common.open_sources(data, args.seed)
    common.check_same_data(data_fingerprint(source.origin, validation.origin if validation else None), args)
    return source, validation


def _load_or_train_tokenizer(
    data: DataArguments, model_args: EncoderModelArguments, source: Source, resume_from: Path | None
) -> PreTrainedTokenizerFast:
    """Return the tokenizer of the checkpoint, that of `--tokenizer`, or a new one; it must have a mask token."""
    if origin := resume_from or model_args.init_from:
        name = str(origin if resume_from else data.tokenizer or origin)
        tokenizer = loading.open_tokenizer(name, trust_remote_code=model_args.trust_remote_code, report=common.note)
    else:
        length = new_context_length(model_args)
        tokenizer = common.build_tokenizer(
            data.tokenizer or "bpe", data.vocab_size, source.documents, source.fingerprint(), length, "encoder"
        )
    if tokenizer.mask_token_id is None:
        raise ScratchError("the tokenizer has no mask token: train one with the template 'encoder'")
    return tokenizer


def _load_or_build_model(
    model_args: EncoderModelArguments,
    tokenizer: PreTrainedTokenizerFast,
    origin: str | Path | None,
    accelerator: Accelerator,
) -> Any:
    """Return the model of the checkpoint, or a new one."""
    if origin is not None:
        dropouts = common.dropout_fields(model_args)
        resumed = origin != model_args.init_from
        model: Any = load_initial_model(origin, model_args.trust_remote_code, "masked", resumed, **dropouts)
    else:
        model = build_masked_model(model_args, tokenizer)
    loading.check_vocabulary(tokenizer, model.config.vocab_size)
    note_fewer_positions(model_args, model)
    choose_attention(model, accelerator.device, max_length(model_args, model, MAX_TUNING_MASKED))
    return model


def _encode(
    accelerator: Accelerator,
    source: Source,
    validation: Source | None,
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    data: DataArguments,
    model_args: EncoderModelArguments,
    tokens_per_batch: int,
) -> tuple[dict[str, Tokens], DataSummary]:
    """Tokenise the text of each split, and split it into rows."""
    shards, summary = common.prepare_shards(accelerator, source, validation, tokenizer, data)
    common.report_data(summary, accelerator.is_main_process)
    length = max_length(model_args, model, MAX_TUNING_MASKED)
    if model_args.init_from is not None and model_args.context_length is None:
        note_length(f"rows of up to {length:,} tokens", model.config, max(length, tokens_per_batch))
    return {split: rows_of_documents(shard, tokenizer, length) for split, shard in shards.items()}, summary


def _make_job(
    accelerator: Accelerator,
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    rows: dict[str, Tokens],
    summary: DataSummary,
    data: DataArguments,
    model_args: EncoderModelArguments,
    args: MaskedTrainingArguments,
) -> Job:
    """Build the job from the results of the previous steps."""
    task = MaskedLanguageModeling(
        accelerator,
        rows["train"],
        rows["validation"],
        tokenizer,
        args.tokens_per_batch,
        args.mask_probability,
        args.seed,
    )
    style = type(model).__name__ if model_args.init_from else model_args.preset
    facts = common.run_facts(
        style,
        summary,
        data.dataset_license,
        prompt=task.example,
        context_length=position_limit(model.config) or max_length(model_args, model, MAX_TUNING_MASKED),
        **{split: {"texts": len(found), "tokens": len(found.ids)} for split, found in rows.items()},
    )

    def report(folder: Path) -> None:
        report_predictions(folder, task.example, model_args.trust_remote_code)

    return Job(accelerator, model, tokenizer, task, args, facts, report)


RECIPE = Recipe("masked_lm", ARGUMENTS, prepare, CARD, DataPreview(common.preview_texts, "encoder"))
