"""Train a tokenizer: characters, words, byte-level BPE, or unigram.

What comes out is a plain `PreTrainedTokenizerFast`: a directory that `AutoTokenizer` opens with no code of ours.
Texts are streamed, so that a corpus may be larger than memory.
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

# What is put around a text: a GPT starts every text with <bos>, and must not see <eos> at the end of a prompt.
TEMPLATES: dict[str, str] = {"causal": f"{BOS} $A", "seq2seq": f"$A {EOS}", "encoder": f"{BOS} $A {EOS}"}

DEFAULT_VOCAB_SIZE = 4096

# How tokens write the white space before a word, by bytes (space, new line, tab) and by unigram.
SPACES = {"Ġ", "Ċ", "ĉ", "▁"}

# A piece of text handed to `tokenizers` at a time. Words are cut only at white space, so pieces do not cross them.
PIECE_CHARACTERS = 1 << 16


def train_tokenizer(
    texts: Iterable[str],
    kind: Kind = "bpe",
    vocab_size: int | None = None,
    template: Template = "causal",
    model_max_length: int | None = None,
    show_progress: bool = False,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on `texts`, which are read once and never held in memory together.

    Args:
        texts: documents, of any length.
        kind: "char" (one token a character), "word" (a word with the space before it), "bpe" (byte-level byte-pair
            encoding, Sennrich et al. 2016, arXiv:1508.07909, in GPT-2's form; any text comes back exactly) or
            "unigram" (Kudo 2018, arXiv:1804.10959, with SentencePiece's normalisation and word marks).
        vocab_size: number of tokens, special ones included. BPE and unigram get exactly so many or an error, or, by
            default, as many as the texts yield up to 4096; for words it is a limit (30,000), rarer ones become `<unk>`;
            characters do not take it.
        template: what is put around a text: "causal" `<bos> text`, "seq2seq" `text <eos>`, "encoder"
            `<bos> text <eos>`, where `<mask>` is a token too.
        model_max_length: longest text in tokens that the model takes, recorded for those who truncate.
        show_progress: show the progress of the training.

    Raises:
        ScratchError: an unknown kind, a vocabulary size that the kind does not take, or texts too small for it.
    """
    if kind not in get_args(Kind):
        raise ScratchError(f"unknown tokenizer kind {kind!r}: choose one of {', '.join(get_args(Kind))}")
    if kind == "char" and vocab_size is not None:
        raise ScratchError(f"a char tokenizer takes every character there is: leave vocab_size out, not {vocab_size}")

    trainer: Any
    tokenizer, trainer = BUILDERS[kind](vocab_size, show_progress)
    masks = template == "encoder"
    if masks:  # the space before it belongs to it, as it belongs to the words that it stands for
        trainer.special_tokens = [
            *trainer.special_tokens,
            AddedToken(MASK, special=True, normalized=False, lstrip=True),
        ]
    texts = iter(texts)
    first = next((text for text in texts if text), None)
    if first is None:
        raise ScratchError("no text to train a tokenizer on: every document is empty")
    try:
        tokenizer.train_from_iterator(_pieces(itertools.chain([first], texts)), trainer)
    except Exception as error:  # tokenizers raises no other class
        if "vocabulary is not large enough" not in str(error):
            raise
        raise ScratchError(
            f"{trainer.vocab_size} tokens are fewer than these texts have characters: choose a larger vocab_size"
        ) from error

    size = tokenizer.get_vocab_size()
    if kind in ("bpe", "unigram") and vocab_size is not None and size != vocab_size:
        # BPE adds one merge after the other, so that its size is a bound; unigram prunes, and another size may work.
        limit = f"ask for {'at most' if size < vocab_size else 'at least'} {size}"
        advice = limit if kind == "bpe" else "choose another size"
        raise ScratchError(
            f"{vocab_size} tokens were asked for, and these texts give {size}: {advice}, or leave vocab_size out"
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
        **({"cls_token": BOS, "sep_token": EOS, "mask_token": MASK} if masks else {}),
        clean_up_tokenization_spaces=False,
        model_max_length=model_max_length or int(1e30),
    )


def encode_batch(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], add_special_tokens: bool = False
) -> list[list[int]]:
    """Token ids of each text, by default without `<bos>` and `<eos>`; special tokens that stand in a text are plain
    text there."""
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


def first_of_word(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """For each token id, whether it begins a word, as its white space, by whatever sign, says."""
    vocabulary = tokenizer.get_vocab()
    begins = np.zeros(max(vocabulary.values()) + 1, dtype=bool)
    for token, number in vocabulary.items():
        begins[number] = token[:1] in SPACES or token[:1].isspace()
    return begins


def space_of_characters(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """The id of the space, where every ordinary token is a character."""
    ordinary = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    return tokenizer.get_vocab().get(" ") if all(len(token) == 1 for token in ordinary) else None


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    """Cut long texts at white space, since the trainers hold a whole text several times over."""
    for text in texts:
        start = 0
        while start < len(text):
            end = min(start + PIECE_CHARACTERS, len(text))
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
    # The trainer cuts at 30,000 by default; no script has more characters than Unicode.
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
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size or DEFAULT_VOCAB_SIZE,
        special_tokens=_special_tokens(PAD, BOS, EOS, UNK),
        unk_token=UNK,
        show_progress=show_progress,
    )
    return tokenizer, trainer


BUILDERS = {"char": _build_char, "word": _build_word, "bpe": _build_bpe, "unigram": _build_unigram}
