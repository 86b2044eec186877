"""Train a tokenizer: characters, words, byte-level BPE, or unigram.

The result is a plain `PreTrainedTokenizerFast`, which `AutoTokenizer` loads without this package. Texts are streamed,
so that a corpus may be larger than memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

import numpy as np
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from ..errors import ScratchError

Kind = Literal["char", "word", "bpe", "unigram"]
Template = Literal["causal", "seq2seq", "encoder"]

PAD, BOS, EOS, UNK, MASK = "<pad>", "<bos>", "<eos>", "<unk>", "<mask>"

# Special tokens around a text ($A): a GPT starts each text with <bos>, and a prompt must not end with <eos>.
TEMPLATES: dict[str, str] = {"causal": f"{BOS} $A", "seq2seq": f"$A {EOS}", "encoder": f"{BOS} $A {EOS}"}

DEFAULT_VOCAB_SIZE = 4096

# White space before a word as tokens spell it: byte-level (space, new line, tab) and unigram.
SPACES = {"Ġ", "Ċ", "ĉ", "▁"}

CHUNK_CHARACTERS = 1 << 16  # longest text that is passed to `tokenizers`; longer ones are split at white space


def train_tokenizer(
    texts: Iterable[str],
    kind: Kind = "bpe",
    vocab_size: int | None = None,
    template: Template = "causal",
    model_max_length: int | None = None,
    show_progress: bool = False,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on `texts`, which are read once and not kept in memory.

    Args:
        texts: documents, of any length.
        kind: "char" (one token per character), "word" (one token per word, including the space before it), "bpe"
            (byte-level byte-pair encoding, Sennrich et al. 2016, arXiv:1508.07909, as in GPT-2; lossless) or "unigram"
            (Kudo 2018, arXiv:1804.10959, with SentencePiece's normalisation and word marks).
        vocab_size: number of tokens, including special tokens. For "bpe" and "unigram", the exact size; by default as
            many as the texts yield, up to 4096. For "word", the maximum, by default 30,000; rarer words become `<unk>`.
            Must be None for "char".
        template: special tokens around a text: "causal" `<bos> text`, "seq2seq" `text <eos>`, "encoder"
            `<bos> text <eos>`; "encoder" also adds the token `<mask>`.
        model_max_length: maximum length in tokens, which is recorded in the tokenizer for truncation.
        show_progress: whether to show a progress bar.

    Raises:
        ScratchError: the kind is unknown, it does not support this vocabulary size, or the texts do not yield it.
    """
    if kind not in get_args(Kind):
        raise ScratchError(f"unknown tokenizer kind {kind!r}: choose one of {', '.join(get_args(Kind))}")
    if kind == "char" and vocab_size is not None:
        raise ScratchError(f"a char tokenizer has one token per character: omit vocab_size, which is {vocab_size}")

    trainer: Any
    tokenizer, trainer = BUILDERS[kind](vocab_size, show_progress)
    has_mask = template == "encoder"
    if has_mask:  # lstrip: the space before it is part of it, as it is part of the words that it replaces
        trainer.special_tokens = [
            *trainer.special_tokens,
            AddedToken(MASK, special=True, normalized=False, lstrip=True),
        ]
    texts = iter(texts)
    first = next((text for text in texts if text), None)
    if first is None:
        raise ScratchError("no text to train a tokenizer on: every document is empty")
    try:
        tokenizer.train_from_iterator(_chunks(itertools.chain([first], texts)), trainer)
    except Exception as error:  # tokenizers raises only this class
        if "vocabulary is not large enough" not in str(error):
            raise
        raise ScratchError(
            f"vocab_size is {trainer.vocab_size}, fewer than these texts have characters: choose a larger one"
        ) from error

    size = tokenizer.get_vocab_size()
    if kind in ("bpe", "unigram") and vocab_size is not None and size != vocab_size:
        # BPE adds merges one by one, so that its size is a bound; unigram prunes, and another size may work.
        limit = f"choose {'at most' if size < vocab_size else 'at least'} {size}"
        advice = limit if kind == "bpe" else "choose another size"
        raise ScratchError(
            f"vocab_size is {vocab_size}, but these texts yield {size} tokens: {advice}, or omit vocab_size"
        )
    ids = {token: tokenizer.token_to_id(token) for token in (BOS, EOS)}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=TEMPLATES[template],
        pair=TEMPLATES[template] + " " + TEMPLATES[template].replace("$A", "$B:1"),
        special_tokens=list(ids.items()),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=None if kind == "bpe" else UNK,
        **({"cls_token": BOS, "sep_token": EOS, "mask_token": MASK} if has_mask else {}),
        clean_up_tokenization_spaces=False,
        model_max_length=model_max_length or int(1e30),
    )


def encode_batch(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], add_special_tokens: bool = False
) -> list[list[int]]:
    """Return the token ids of each text, without truncation or padding. Names of special tokens in a text, such as
    "<eos>", are encoded as ordinary text.

    Args:
        tokenizer: a fast tokenizer.
        texts: the texts.
        add_special_tokens: whether to add `<bos>` and `<eos>` as the tokenizer's template does.
    """
    backend = tokenizer.backend_tokenizer
    before = backend.encode_special_tokens, backend.truncation, backend.padding
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    try:
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=add_special_tokens)]
    finally:
        backend.encode_special_tokens = before[0]
        if before[1]:
            backend.enable_truncation(**before[1])
        if before[2]:
            backend.enable_padding(**before[2])


def starts_word(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Return a boolean mask of the vocabulary, shape (V,): tokens that start with white space, and thus a word."""
    vocabulary = tokenizer.get_vocab()
    starts = np.zeros(max(vocabulary.values()) + 1, dtype=bool)
    for token, number in vocabulary.items():
        starts[number] = token[:1] in SPACES or token[:1].isspace()
    return starts


def space_of_characters(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Return the id of the space of a character tokenizer; None if it has none, or for other tokenizers."""
    ordinary = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    return tokenizer.get_vocab().get(" ") if all(len(token) == 1 for token in ordinary) else None


def _chunks(texts: Iterable[str]) -> Iterator[str]:
    """Split long texts at white space, because the trainers keep several copies of a text in memory."""
    for text in texts:
        start = 0
        while start < len(text):
            end = min(start + CHUNK_CHARACTERS, len(text))
            if end < len(text):
                space = max(text.rfind(" ", start, end), text.rfind("\n", start, end))
                end = space if space > start else end
            yield text[start:end]
            start = end


def _special_tokens(*names: str) -> list[AddedToken]:
    return [AddedToken(name, special=True, normalized=False) for name in names]


def _build_char(vocab_size: int | None, show_progress: bool) -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    specials = _special_tokens(PAD, BOS, EOS, UNK)
    # The default is 30,000; the number of code points of Unicode is no limit.
    trainer = trainers.WordLevelTrainer(vocab_size=0x110000, special_tokens=specials, show_progress=show_progress)
    return tokenizer, trainer


def _build_word(vocab_size: int | None, show_progress: bool) -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r" ?[\p{L}\p{M}\p{N}_]+| ?[^\s\p{L}\p{M}\p{N}_]|\s"), "isolated"
    )
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size or 30_000,
        special_tokens=_special_tokens(PAD, BOS, EOS, UNK),
        show_progress=show_progress,
    )
    return tokenizer, trainer


def _build_bpe(vocab_size: int | None, show_progress: bool) -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size or DEFAULT_VOCAB_SIZE,
        special_tokens=_special_tokens(PAD, BOS, EOS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=show_progress,
    )
    return tokenizer, trainer


def _build_unigram(vocab_size: int | None, show_progress: bool) -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.Unigram())
    # The mark is prepended to every text, as in SentencePiece: Metaspace would not where a text starts with a space.
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Prepend("▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size or DEFAULT_VOCAB_SIZE,
        special_tokens=_special_tokens(PAD, BOS, EOS, UNK),
        unk_token=UNK,
        show_progress=show_progress,
    )
    return tokenizer, trainer


BUILDERS = {"char": _build_char, "word": _build_word, "bpe": _build_bpe, "unigram": _build_unigram}
