"""Data, tokenizers and model of translation."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from huggingface_hub.errors import StrictDataclassError
from tqdm import tqdm
from transformers import PreTrainedModel

from ....data.batching.encoding import Pairs, encode_pairs
from ....data.readers.corpus import Corpus, fingerprint_of
from ....data.readers.parallel import Pair, open_pairs
from ....data.readers.tables import ReadOptions
from ....errors import ScratchError
from ....hub.loading import Tokenizers, open_config
from ....models.configuration_scratch_seq2seq import ScratchSeq2SeqConfig, directions_of
from ....models.modeling_scratch_seq2seq import ScratchSeq2SeqForConditionalGeneration
from ....terminal import SafeConsole
from ....tokenization.language_codes import has_language_codes, set_language_codes, start_with_language
from ..common import ReadExamples, build_tokenizer, open_parts, read_examples
from ..initial_model import check_initial_model, load_initial_model
from .arguments import PairArguments, Seq2SeqModelArguments


def read_pairs(data: PairArguments, seed: int) -> ReadExamples[Pair]:
    """Read the pairs of each split.

    Raises:
        ScratchError: the data is missing, or a split is empty.
    """
    if data.target_file is not None and data.validation_split is not None:
        raise ScratchError("two files have no splits: remove --validation_split, or give a folder")

    def open_one(dataset: str, options: ReadOptions, validation: bool) -> Corpus[Pair]:
        count = max(1, min(1000, data.num_pairs // 4)) if validation else data.num_pairs
        other = None if validation else data.target_file
        languages = data.source_lang, data.target_lang
        return open_pairs(dataset, *languages, options, target_file=other, num_pairs=count, seed=seed)

    return read_examples(
        open_parts(data, data.max_pairs, open_one),
        {"validation": data.validation_fraction},
        data.split_seed,
        key=lambda pair: pair[0],
        row=lambda pair: {data.source_lang: pair[0], data.target_lang: pair[1]},
        texts=lambda pair: pair,
    )


def with_reversed(train: list[Pair], data: PairArguments, shared: bool) -> list[Pair]:
    """Return the pairs and, with `--both_directions`, each of them reversed too (Ding et al. 2021, arXiv:2109.07780).

    Args:
        train: training pairs.
        data: data arguments.
        shared: whether both sides have the same tokenizer.

    Raises:
        ScratchError: `--both_directions` is given, and they have different tokenizers.
    """
    if not data.both_directions:
        return train
    if not shared:
        raise ScratchError("both_directions needs one vocabulary for both languages: remove --separate_vocabularies")
    return train + [(target, source) for source, target in train]


def build_tokenizers(data: PairArguments, train: list[Pair]) -> Tokenizers:
    """Train one tokenizer on both sides of the training pairs, or one on each."""
    sides = [[pair[side] for pair in train] for side in (0, 1)]

    def build(texts: list[str]) -> Any:
        fingerprint = fingerprint_of(*texts)
        return build_tokenizer(
            data.tokenizer, data.vocab_size, lambda: iter(texts), fingerprint, data.max_length, "seq2seq"
        )

    if data.separate_vocabularies:
        return Tokenizers(build(sides[0]), build(sides[1]))
    both = build(list(itertools.chain.from_iterable(zip(*sides, strict=True))))
    return Tokenizers(both, both)


def build_config(args: Seq2SeqModelArguments, data: PairArguments, vocab_sizes: tuple[int, int]) -> Any:
    """Build the config of a new model.

    Raises:
        ScratchError: an unknown preset, or invalid settings.
    """
    share = args.share_encoder_decoder_embeddings
    given = {"intermediate_size": args.intermediate_size, "tie_word_embeddings": args.tie_word_embeddings}
    given = {name: value for name, value in given.items() if value is not None}
    try:
        return ScratchSeq2SeqConfig.from_preset(
            args.preset,
            vocab_size=vocab_sizes[0],
            decoder_vocab_size=vocab_sizes[1],
            max_position_embeddings=data.max_length,
            hidden_size=args.hidden_size,
            encoder_layers=args.encoder_layers,
            decoder_layers=args.decoder_layers,
            num_attention_heads=args.num_attention_heads,
            share_encoder_decoder_embeddings=not data.separate_vocabularies if share is None else share,
            source_lang=data.source_lang,
            target_lang=data.target_lang,
            both_directions=data.both_directions,
            target_tokenizer=data.separate_vocabularies,
            **given,
            **regularization(args),
        )
    except (ValueError, StrictDataclassError) as error:
        raise ScratchError(str(error).split("ValueError: ")[-1]) from error


def regularization(args: Seq2SeqModelArguments) -> dict[str, Any]:
    """Config fields of the given regularisation arguments; the others keep the values of preset or checkpoint."""
    chosen = {
        "embedding_dropout": args.dropout,
        "residual_dropout": args.dropout,
        "label_smoothing": args.label_smoothing,
    }
    return {name: value for name, value in chosen.items() if value is not None}


def build_model(args: Seq2SeqModelArguments, data: PairArguments, tokenizers: Tokenizers) -> PreTrainedModel:
    """Build a new model in float32."""
    sizes = len(tokenizers.source), len(tokenizers.target)
    return ScratchSeq2SeqForConditionalGeneration(build_config(args, data, sizes))


def check_translator(name: str | Path, trust_remote_code: bool) -> None:
    """Check that a checkpoint is an encoder-decoder of this package, or can be imported as one.

    Raises:
        ScratchError: it is another kind of model.
    """
    config = open_config(name, trust_remote_code)
    if not config.is_encoder_decoder:
        raise ScratchError(f"{name} is a {config.model_type} model, which does not translate")
    check_initial_model(name, trust_remote_code, "seq2seq", ScratchSeq2SeqConfig.model_type, "this task trains")


def load_translator(
    name: str | Path, args: Seq2SeqModelArguments, data: PairArguments, tokenizers: Tokenizers
) -> PreTrainedModel:
    """Load an encoder-decoder of this package from a checkpoint, for the languages of `data`.

    Args:
        name: folder or Hub id.
        args: model arguments.
        data: data arguments.
        tokenizers: of the checkpoint; if they have language codes, they and the model are set to those of `data`.

    Raises:
        ScratchError: it can't be opened, was trained for other languages, or its tokenizer has no code for a language,
            or one code for all texts with `--both_directions`.
    """
    resumed = name != args.init_from
    model = load_initial_model(name, args.trust_remote_code, "seq2seq", resumed, **regularization(args))
    config: Any = model.config
    languages = data.source_lang, data.target_lang
    if (known := directions_of(config)) and languages not in known:
        raise ScratchError(f"{name} translates {' to '.join(known[0])}, not {' to '.join(languages)}")
    config.set_languages(*languages, data.both_directions)
    if has_language_codes(tokenizers.source):
        if data.both_directions:
            raise ScratchError(
                "both_directions: the tokenizer marks all sources with one language code: train a direction per run"
            )
        set_language_codes(tokenizers.source, *languages)
        start_with_language(model, tokenizers.target)
    return model


def encode(
    tokenizers: Tokenizers,
    max_length: int,
    accelerator: Accelerator,
    pairs: list[Pair],
    name: str,
    skip_long: bool,
) -> Pairs:
    """Tokenise pairs, with a progress bar, and report how many were too long.

    Args:
        tokenizers: tokenizers of both sides.
        max_length: maximum length of a side in tokens.
        accelerator: the processes; the main one reports.
        pairs: source and target sentences.
        name: name of the split, for the report.
        skip_long: whether pairs with a longer side are skipped, not truncated.

    Raises:
        ScratchError: no pair is left.
    """
    main = accelerator.is_main_process
    with tqdm(total=len(pairs), desc=f"tokenising {name}", unit=" pairs", leave=False, disable=not main or None) as bar:
        encoded = encode_pairs(iter(pairs), *tokenizers, max_length, skip_long, bar.update)
    if encoded.num_too_long and main:
        done = "skipped" if skip_long else "truncated"
        SafeConsole(stderr=True).print(
            f"{encoded.num_too_long:,} {name} pairs with a side of over {max_length} tokens were {done}"
        )
    if not len(encoded):
        raise ScratchError(f"every {name} pair has a side of over {max_length} tokens: raise --max_length")
    return encoded


def sizes(pairs: list[Pair], encoded: Pairs) -> dict[str, int]:
    """Sizes of a split, for `run.yaml`."""
    return {
        "pairs": len(encoded),
        "source_tokens": len(encoded.source.ids),
        "target_tokens": len(encoded.target.ids),
        "characters": sum(len(source) + len(target) for source, target in pairs),
        "long": encoded.num_too_long,
    }
