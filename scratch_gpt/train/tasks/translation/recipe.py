"""Train an encoder-decoder to translate, on pairs of sentences.

    scratch-gpt train translation                                # built-in German to English, minutes
    scratch-gpt train translation --dataset FOLDER --source_lang fr --target_lang en
    scratch-gpt train translation --config german_grammar

The output directory contains weights, config, tokenizer, code of model and pipeline, card and loss plot:

    pipeline("translation_de_to_en", "runs/seq2seq", trust_remote_code=True)
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ....data.batching.encoding import Pairs
from ....data.readers.parallel import Pair
from ....evaluation.translation import report_translations, signatures
from ....hub import loading
from ....hub.loading import Tokenizers
from ....hub.model_directory import set_translation_defaults
from ...engine.recipe import DataPreview, Job, Recipe
from ...engine.startup import start
from ...performance.attention_choice import choose_attention
from .. import common
from ..common import ReadExamples
from . import build
from .arguments import ARGUMENTS, PairArguments, Seq2SeqModelArguments, Seq2SeqTrainingArguments
from .card import CARD
from .task import Translation


def prepare(
    data: PairArguments, model_args: Seq2SeqModelArguments, args: Seq2SeqTrainingArguments, resume_from: Path | None
) -> Job:
    """Prepare a run; see `Recipe.prepare`.

    Args:
        data: data arguments.
        model_args: model arguments.
        args: training arguments.
        resume_from: checkpoint to resume from, or None.
    """
    scores = signatures()  # before anything is read: sacrebleu can be missing
    origin = resume_from or model_args.init_from
    found = _read(data, model_args, args, resume_from)
    accelerator = start(args, model_args, resume_from)
    with accelerator.main_process_first():
        tokenizers = _load_or_train_tokenizers(data, model_args, found, origin)
        model = _load_or_build_model(data, model_args, tokenizers, origin, accelerator)
    encoded = _encode(accelerator, found, model, tokenizers, data)
    return _make_job(accelerator, model, tokenizers, encoded, found, data, model_args, args, scores)


def _read(
    data: PairArguments,
    model_args: Seq2SeqModelArguments,
    args: Seq2SeqTrainingArguments,
    resume_from: Path | None,
) -> ReadExamples[Pair]:
    """Check the settings of a new model, or the model to start from, then read the pairs of each split."""
    if resume_from is None:  # the model that a resumed run started from may be gone
        if model_args.init_from is None:
            build.build_config(model_args, data, vocab_sizes=(8, 8))
        else:
            build.check_translator(model_args.init_from, model_args.trust_remote_code)
    found = build.read_pairs(data, args.seed)
    common.check_same_data(found.summary.fingerprint, args)
    return found


def _load_or_train_tokenizers(
    data: PairArguments, model_args: Seq2SeqModelArguments, found: ReadExamples[Pair], origin: str | Path | None
) -> Tokenizers:
    """Return the tokenizers of the checkpoint, or new ones."""
    if origin is not None:
        config = loading.open_config(origin, model_args.trust_remote_code)
        return loading.open_tokenizers(str(origin), config, model_args.trust_remote_code, common.note)
    return build.build_tokenizers(data, found.parts["train"])


def _load_or_build_model(
    data: PairArguments,
    model_args: Seq2SeqModelArguments,
    tokenizers: Tokenizers,
    origin: str | Path | None,
    accelerator: Accelerator,
) -> Any:
    """Return the model of the checkpoint, or a new one."""
    if origin is not None:
        model: Any = build.load_translator(origin, model_args, data, tokenizers)
    else:
        model = build.build_model(model_args, data, tokenizers)
        set_translation_defaults(model, tokenizers.target, model_args.num_beams)
    for tokenizer, size in zip(tokenizers, (model.config.vocab_size, model.config.decoder_vocab_size), strict=True):
        loading.check_vocabulary(tokenizer, size)
    choose_attention(model, accelerator.device, _max_length(model, data))
    return model


def _encode(
    accelerator: Accelerator, found: ReadExamples[Pair], model: Any, tokenizers: Tokenizers, data: PairArguments
) -> dict[str, Pairs]:
    """Tokenise the pairs of each split; with `--both_directions`, training pairs are also reversed."""
    max_length = _max_length(model, data)
    to_tokens = partial(build.encode, tokenizers, max_length, accelerator)
    train = build.with_reversed(found.parts["train"], data, tokenizers.source is tokenizers.target)
    encoded = {
        "train": to_tokens(train, "training", data.skip_long),
        "validation": to_tokens(found.parts["validation"], "validation", skip_long=False),
    }
    found.parts["train"] = train
    if data.skip_long:
        long = encoded["train"].num_too_long // (2 if data.both_directions else 1)
        found.summary.skip("train", f"a side of over {max_length} tokens (skip_long)", long)
    sides = zip(tokenizers, (encoded["train"].source, encoded["train"].target), strict=True)
    found.summary.unknown_share = max(common.unknown_share(tokenizer, side.ids) for tokenizer, side in sides)
    common.report_data(found.summary, accelerator.is_main_process)
    return encoded


def _make_job(
    accelerator: Accelerator,
    model: Any,
    tokenizers: Tokenizers,
    encoded: dict[str, Pairs],
    found: ReadExamples[Pair],
    data: PairArguments,
    model_args: Seq2SeqModelArguments,
    args: Seq2SeqTrainingArguments,
    scores: dict[str, str],
) -> Job:
    """Build the job from the results of the previous steps."""
    validation = found.parts["validation"]
    texts = [pair[0] for pair in validation], [pair[1] for pair in validation]
    task = Translation(
        accelerator,
        encoded["train"],
        encoded["validation"],
        texts,
        tokenizers,
        args.tokens_per_batch,
        args.seed,
        args.eval_beams,
        args.word_dropout,
        model.config.decoder_start_token_id,
    )
    style = type(model).__name__ if model_args.init_from else model_args.preset
    has_target_tokenizer = tokenizers.target is not tokenizers.source
    facts = common.run_facts(
        style,
        found.summary,
        data.dataset_license,
        prompt=texts[0][0],
        context_length=model.config.max_position_embeddings,
        source_lang=data.source_lang,
        target_lang=data.target_lang,
        target_tokenizer=has_target_tokenizer,
        scores=scores,
        **{split: build.sizes(found.parts[split], part) for split, part in encoded.items()},
    )

    def report(folder: Path) -> None:
        report_translations(folder, texts, model_args.trust_remote_code)

    second = tokenizers.target if has_target_tokenizer else None
    return Job(accelerator, model, tokenizers.source, task, args, facts, report, target_tokenizer=second)


def _max_length(model: Any, data: PairArguments) -> int:
    return min(data.max_length, int(model.config.max_position_embeddings))


PREVIEW = DataPreview(common.preview_of(build.read_pairs, separate=True), "seq2seq")
RECIPE = Recipe("translation", ARGUMENTS, prepare, CARD, PREVIEW)
