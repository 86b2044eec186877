"""A tokenizer as fields of a GGUF file, for llama.cpp.

llama.cpp has its own implementations of tokenizers, so a tokenizer must have exactly the parts that one of them
implements. Four kinds have:

| tokenizer | in llama.cpp | differences |
| --- | --- | --- |
| byte-level BPE with a pre-tokenizer of `PRE_TOKENIZERS` | `gpt2` | no normalization to NFC |
| BPE of characters with word marks and byte fallback, as SentencePiece trains it | `llama` | none |
| unigram with NFKC and word marks | `t5` | a text of spaces only has one mark less |
| characters | `t5`, each character with the same score | adjacent unknown characters are one `<unk>` |
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerFast

from ...errors import ScratchError

SPACE_MARK = "▁"  # a space in the tokens of unigram tokenizers
GENERATION_TAG = re.compile(r"{%-?\s*(?:end)?generation\s*-?%}")  # a tag of transformers, for the masks of training

# The parts of our tokenizers, as tokenizers writes them.
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}  # GPT-2's regular expression, too
UNIGRAM_NORMALIZER = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Prepend", "prepend": SPACE_MARK}]}
CHARACTERS = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}

# Parts of BPE with byte fallback that write a space as a mark: with a mark before the text (Llama 2), without (Gemma).
MARK_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
MARK_NORMALIZERS = {
    True: {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE_MARK}, MARK_SPACES]},
    False: MARK_SPACES,
}
SPLIT_AT_SPACES = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")

# The pre-tokenizers of byte-level BPE that llama.cpp has, with the parts that tokenizers has for the same splits. It
# has several names for most; "llama-bpe" also takes whole words from the vocabulary before it merges.
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DIGITS = {"type": "Digits", "individual_digits": True}
BYTES = {**BYTE_LEVEL, "use_regex": False}


def split_by(pattern: str) -> list[dict[str, Any]]:
    """The parts of a pre-tokenizer that splits by a regular expression."""
    return [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}, BYTES]


PRE_TOKENIZERS = {
    "gpt-2": [BYTE_LEVEL],
    "starcoder": [DIGITS, BYTE_LEVEL],  # SmolLM and Granite too
    "qwen2": split_by(rf"{WORDS}|\p{{N}}|{REST}"),
    "dbrx": split_by(rf"{WORDS}|\p{{N}}{{1,3}}|{REST}"),  # GPT-4's; OLMo 2 and Phi-4
    "llama-bpe": split_by(rf"{WORDS}|\p{{N}}{{1,3}}|{REST}"),  # Llama 3's
}
TAKES_WHOLE_WORDS = ("llama-bpe",)


@dataclass(frozen=True)
class GGUFVocabulary:
    """The vocabulary of a GGUF file.

    Attributes:
        model: llama.cpp's name of the algorithm.
        tokens: text of each token.
        scores: score of each token; empty for BPE.
        merges: merges of BPE, each two tokens with a space between them.
        options: further fields, by the names of GGUF.
    """

    model: str
    tokens: list[str]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


def read_vocabulary(tokenizer: PreTrainedTokenizerFast) -> GGUFVocabulary:
    """The vocabulary of a tokenizer that llama.cpp can run.

    Raises:
        ScratchError: llama.cpp has no tokenizer with these parts.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model, kind = content["model"], content["model"]["type"]
    if kind == "BPE":
        return _byte_fallback(content, model) if model.get("byte_fallback") else _byte_level(content, model)
    if kind == "Unigram":
        return _unigram(content, model)
    if kind == "WordLevel":
        return _characters(content, model)
    raise ScratchError(
        f"llama.cpp has no tokenizer for a {kind} model: want BPE of bytes or with byte fallback, unigram or characters"
    )


def _byte_level(content: dict[str, Any], model: dict[str, Any]) -> GGUFVocabulary:
    parts = _parts(content["pre_tokenizer"])
    whole_words = bool(model.get("ignore_merges"))
    name = next(
        (
            name
            for name, wanted in PRE_TOKENIZERS.items()
            if len(parts) == len(wanted)
            and all({**part, **want} == part for part, want in zip(parts, wanted, strict=True))
            and whole_words == (name in TAKES_WHOLE_WORDS)
        ),
        None,
    )
    if name is None or content["normalizer"] not in (None, {"type": "NFC"}):
        raise ScratchError(
            "llama.cpp has no pre-tokenizer like that of this BPE tokenizer: want ByteLevel without a prefix space, "
            "the regular expression of GPT-2, StarCoder, Qwen2, GPT-4 or, with ignore_merges, Llama 3, and no "
            f"normalizer but NFC; found {_names(content)}{', ignore_merges' if whole_words else ''}"
        )
    for option in ("dropout", "unk_token", "continuing_subword_prefix"):
        if model.get(option):
            raise ScratchError(f"llama.cpp has no BPE with {option}, which is {model[option]!r} in this tokenizer")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    tokens = _by_id(model["vocab"])
    return GGUFVocabulary("gpt2", tokens, merges=merges, options={"tokenizer.ggml.pre": name})


def _byte_fallback(content: dict[str, Any], model: dict[str, Any]) -> GGUFVocabulary:
    vocab = model["vocab"]
    prefix = next((prefix for prefix, part in MARK_NORMALIZERS.items() if content["normalizer"] == part), None)
    # Gemma's pre-tokenizer splits at spaces, of which the normalizer has left none
    if prefix is None or content["pre_tokenizer"] not in (None, SPLIT_AT_SPACES) or model.get("ignore_merges"):
        raise ScratchError(
            "llama.cpp has no BPE tokenizer with byte fallback like this one: want a normalizer that replaces spaces "
            f"by {SPACE_MARK}, with or without one before the text, and no pre-tokenizer; found {_names(content)}"
        )
    if sum(BYTE_TOKEN.fullmatch(token) is not None for token in vocab) != 256:
        raise ScratchError("the BPE tokenizer has byte fallback, but not all of the 256 byte tokens <0x00> to <0xFF>")
    merges = [tuple(merge if isinstance(merge, list) else merge.split(" ")) for merge in model["merges"]]
    ranks = _token_ranks(merges, vocab, {token["content"] for token in content["added_tokens"]})
    tokens = _by_id(vocab)
    scores = [-float(ranks.get(token, 0)) for token in tokens]
    return GGUFVocabulary("llama", tokens, scores=scores, options={"tokenizer.ggml.add_space_prefix": prefix})


def _token_ranks(merges: list[tuple[str, ...]], vocab: dict[str, int], added: set[str]) -> dict[str, int]:
    """The order in which the tokens of a BPE are merged, from 1. SentencePiece, and llama.cpp, merge two parts wherever
    they are a token together, the first token in this order first.

    Raises:
        ScratchError: the merges can't be described by an order of the tokens.
    """
    ranks: dict[str, int] = {}
    previous = None
    for left, right in merges:
        token = left + right
        if token != previous and token in ranks:
            raise ScratchError(f"llama.cpp can't run this BPE tokenizer: merges of {token!r} do not stand together")
        ranks.setdefault(token, len(ranks) + 1)
        previous = token
    known = set(merges)
    for token in vocab:
        if token in added or BYTE_TOKEN.fullmatch(token):
            continue
        for i in range(1, len(token)):
            pair = (token[:i], token[i:])
            if pair not in known and all(part in vocab and part not in added for part in pair):
                raise ScratchError(
                    f"llama.cpp can't run this BPE tokenizer: it merges {pair} to {token!r}, which is no merge"
                )
    return ranks


def _unigram(content: dict[str, Any], model: dict[str, Any]) -> GGUFVocabulary:
    metaspace = content["pre_tokenizer"] or {}
    if (
        content["normalizer"] != UNIGRAM_NORMALIZER
        or metaspace.get("type") != "Metaspace"
        or metaspace.get("prepend_scheme") != "never"
        or model.get("byte_fallback")
    ):
        raise ScratchError(
            "llama.cpp has no unigram tokenizer like this one: want NFKC, a mark before every text, Metaspace that "
            f"prepends none, and no byte fallback; found {_names(content)}"
        )
    tokens, scores = zip(*model["vocab"], strict=True)
    options = {
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": False,
        "tokenizer.ggml.precompiled_charsmap": nfkc_charsmap(),
    }
    return GGUFVocabulary("t5", list(tokens), scores=list(scores), options=options)


def _characters(content: dict[str, Any], model: dict[str, Any]) -> GGUFVocabulary:
    special = {token["content"] for token in content["added_tokens"]}
    ordinary = set(model["vocab"]) - special
    if content["pre_tokenizer"] != CHARACTERS or content["normalizer"] or any(len(token) > 1 for token in ordinary):
        raise ScratchError(
            "llama.cpp has no tokenizer of whole words: want byte-level BPE, unigram or characters; found "
            f"{_names(content)}"
        )
    if SPACE_MARK in ordinary:
        raise ScratchError(f"llama.cpp writes a space as {SPACE_MARK}, which is a character of this tokenizer itself")
    tokens = [SPACE_MARK if token == " " else token for token in _by_id(model["vocab"])]
    options = {"tokenizer.ggml.add_space_prefix": False, "tokenizer.ggml.remove_extra_whitespaces": False}
    return GGUFVocabulary("t5", tokens, scores=[-1.0] * len(tokens), options=options)


@functools.cache
def nfkc_charsmap() -> bytes:
    """The table of Unicode's normalization form NFKC in SentencePiece's binary format, which llama.cpp reads."""
    import io

    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(  # of a model that is not used: training embeds the table in it
        sentence_iterator=iter(["a b c"]),
        model_writer=model,
        vocab_size=8,
        hard_vocab_limit=False,
        normalization_rule_name="nfkc",
        minloglevel=2,
    )
    content: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made at import
    content.ParseFromString(model.getvalue())
    return content.normalizer_spec.precompiled_charsmap


def token_types(tokenizer: PreTrainedTokenizerFast, vocabulary: GGUFVocabulary, vocab_size: int) -> list[int]:
    """The type of each of the model's `vocab_size` tokens: normal, unknown, control (special), byte or
    unused."""
    from gguf import TokenType

    types = [TokenType.NORMAL] * len(vocabulary.tokens)
    types += [TokenType.UNUSED] * (vocab_size - len(vocabulary.tokens))
    for number, token in tokenizer.added_tokens_decoder.items():
        types[number] = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
    if vocabulary.model != "gpt2" and tokenizer.unk_token_id is not None:
        types[tokenizer.unk_token_id] = TokenType.UNKNOWN
    if vocabulary.model == "llama":
        for number, text in enumerate(vocabulary.tokens):
            if BYTE_TOKEN.fullmatch(text):
                types[number] = TokenType.BYTE
    return [int(kind) for kind in types]


def all_tokens(tokenizer: PreTrainedTokenizerFast, vocabulary: GGUFVocabulary, vocab_size: int) -> list[str]:
    """The texts of the model's `vocab_size` tokens; those that the tokenizer lacks have names that no text contains."""
    tokens = [*vocabulary.tokens, *("" for _ in range(vocab_size - len(vocabulary.tokens)))]
    for number, token in tokenizer.added_tokens_decoder.items():
        tokens[number] = token.content
    return [token or f"[unused {number}]" for number, token in enumerate(tokens)]


def adds_bos(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the tokenizer puts `<bos>` before a text.

    Raises:
        ScratchError: it adds other special tokens.
    """
    added = tokenizer("a")["input_ids"]
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    if added == plain:
        return False
    if added != [tokenizer.bos_token_id, *plain]:
        found = tokenizer.convert_ids_to_tokens(added)
        raise ScratchError(
            f"llama.cpp can put <bos> before a text and nothing else; this tokenizer gives {found} for 'a'"
        )
    return True


def chat_template(tokenizer: PreTrainedTokenizerFast) -> str | None:
    """The chat template without the tags that mark the assistant's tokens, which llama.cpp does not know; they do not
    change the text."""
    template = tokenizer.chat_template
    template = template.get("default") if isinstance(template, dict) else template
    return GENERATION_TAG.sub("", template) if isinstance(template, str) else None


def _by_id(vocabulary: dict[str, int]) -> list[str]:
    tokens = [""] * (max(vocabulary.values()) + 1)
    for token, number in vocabulary.items():
        tokens[number] = token
    return tokens


def _parts(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The pre-tokenizers of a sequence, or the only one."""
    if part is None:
        return []
    return part["pretokenizers"] if part["type"] == "Sequence" else [part]


def _names(content: dict[str, Any]) -> str:
    """The parts of a tokenizer in words, for an error."""
    normalizer = (content["normalizer"] or {}).get("type")
    parts = ", ".join(part["type"] for part in _parts(content["pre_tokenizer"]))
    return f"normalizer {normalizer}, pre-tokenizer {parts or None}"
