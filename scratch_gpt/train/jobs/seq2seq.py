"""Encoder-decoders: translation."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ...data.pairs import Pair
from ...evaluation.translation import report_translations, signatures
from ...hub import opening
from ...hub.model_directory import set_translation_defaults
from .. import translation_setup
from ..arguments.training import PairArguments, Seq2SeqModelArguments, Seq2SeqTrainingArguments
from ..data_setup import ReadExamples, check_same_data, report_data, unknown_share
from ..engine import startup
from ..engine.run import Job
from ..engine.task import check_sharding
from ..performance.attention_choice import choose_attention
from ..translation import Translation

TYPES = (PairArguments, Seq2SeqModelArguments, Seq2SeqTrainingArguments)


def read(data: PairArguments, seed: int) -> ReadExamples[Pair]:
    """The pairs of each split."""
    return translation_setup.read_pairs(data, seed)


def prepare(
    data: PairArguments, model_args: Seq2SeqModelArguments, args: Seq2SeqTrainingArguments, resume_from: Path | None
) -> Job:
    """Read the data, and build or open the model; what can't be trained is refused before anything is written."""
    origin = resume_from or model_args.init_from
    if origin is None:
        translation_setup.build_config(model_args, data, vocab_sizes=(8, 8))
    found = read(data, args.seed)
    check_same_data(found.summary.fingerprint, args)
    train, validation = found.parts["train"], found.parts["validation"]

    accelerator = startup.start(args)
    check_sharding(Translation, accelerator)
    with accelerator.main_process_first():
        if origin is not None:
            model = translation_setup.load_translator(str(origin), model_args, data)
            tokenizers = translation_setup.open_tokenizers(str(origin), model, model_args.trust_remote_code)
        else:
            tokenizers = translation_setup.build_tokenizers(data, train)
            model = translation_setup.build_model(model_args, data, tokenizers)
            set_translation_defaults(model, tokenizers.target, model_args.num_beams)
    train = translation_setup.with_reversed(train, data, tokenizers.source is tokenizers.target)
    for tokenizer, size in zip(tokenizers, (model.config.vocab_size, model.config.decoder_vocab_size), strict=True):
        opening.check_vocabulary(tokenizer, size)
    longest = min(data.max_length, model.config.max_position_embeddings)
    choose_attention(model, accelerator.device, longest)
    encode = partial(translation_setup.encode, tokenizers, longest, accelerator)
    train_tokens = encode(train, "training", data.skip_long)
    validation_tokens = encode(validation, "validation", skip_long=False)
    if data.skip_long:
        long = train_tokens.long // (2 if data.both_directions else 1)
        found.summary.skip("train", f"a side of over {longest} tokens (skip_long)", long)
    sides = zip(tokenizers, (train_tokens.source, train_tokens.target), strict=True)
    found.summary.unknown_share = max(unknown_share(tokenizer, side.ids) for tokenizer, side in sides)
    report_data(found.summary, accelerator.is_main_process)
    texts = [pair[0] for pair in validation], [pair[1] for pair in validation]
    task = Translation(
        accelerator,
        train_tokens,
        validation_tokens,
        texts,
        tokenizers,
        args.tokens_per_batch,
        args.seed,
        args.eval_beams,
        args.word_dropout,
        model.config.decoder_start_token_id,
    )

    style = type(model).__name__ if model_args.init_from else model_args.preset
    title = f"{style} on {found.summary.name}, {data.source_lang} to {data.target_lang}"
    facts = {
        "task": "translation",
        "title": title,
        "style": style,
        "dataset": found.summary.name,
        "license": "apache-2.0" if found.summary.built_in else data.dataset_license,
        "prompt": texts[0][0],
        "context_length": model.config.max_position_embeddings,
        "source_lang": data.source_lang,
        "target_lang": data.target_lang,
        "target_tokenizer": tokenizers.target is not tokenizers.source,
        "scores": signatures(),
        "data": found.summary.record(),
        "train": translation_setup.sizes(train, train_tokens),
        "validation": translation_setup.sizes(validation, validation_tokens),
    }
    second = tokenizers.target if tokenizers.target is not tokenizers.source else None

    def report(folder: Path) -> None:
        report_translations(folder, texts, model_args.trust_remote_code)

    return Job(accelerator, model, tokenizers.source, task, args, facts, report, target_tokenizer=second)
