"""A tokenizer as the page's JavaScript (`web/tokenization/`) reads it: the parts of its tokenizer.json.

What the JavaScript does not have is rejected here, so that a page never shows other tokens than the model was trained
with.
"""

from __future__ import annotations

import json
from typing import Any

from transformers import PreTrainedTokenizerFast

from ..errors import ScratchError
from ..tokenization.special_tokens import special_token_ids, surrounding_tokens
from .regular_expressions import to_javascript

# The parts that `web/tokenization/` implements, by the names of `tokenizers`. A sequence has parts in the named list.
NORMALIZERS = {
    *("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Strip", "Nmt", "Prepend", "Replace"),
    *("ByteLevel", "BertNormalizer", "Precompiled"),
}
PRE_TOKENIZERS = {
    *("ByteLevel", "Split", "Metaspace", "Whitespace", "WhitespaceSplit", "BertPreTokenizer", "Digits", "Punctuation"),
    *("CharDelimiterSplit", "FixedLength"),
}
DECODERS = {"ByteLevel", "ByteFallback", "BPEDecoder", "Fuse", "Metaspace", "Replace", "Strip", "WordPiece"}
STEPS = {
    "normalizer": ("normalizers", NORMALIZERS),
    "pre_tokenizer": ("pretokenizers", PRE_TOKENIZERS),
    "decoder": ("decoders", DECODERS),
}
# What encodes and decodes in Python.
METHODS = ("__call__", "_encode_plus", "encode", "decode", "_decode", "convert_ids_to_tokens")
BPE_CLEAN_UP = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
MAX_TOKENS = 1_000_000  # a page shows models of up to about 30 million parameters
# Normalizers that keep the first character of a text or write something in its place. What `Precompiled` removes there
# still counts as the start.
KEEP_START = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend", "Replace", "ByteLevel", "Precompiled"}


def tokenizer_payload(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Return a tokenizer as JSON for the page.

    Returns:
        A dictionary: `model` (its type, the tokens by id, merges or scores), `normalizer`, `pre_tokenizer` and
        `decoder` (the JSON of `tokenizers`, with regular expressions translated to JavaScript), `post` (the ids
        `before` and `after` a text), `special` (id by token), `added` (tokens that are found in a text before it is
        split), `split_special_tokens`, and `clean_up` (whether decoding removes spaces before punctuation).

    Raises:
        ScratchError: the page can't do a part of the tokenizer; the message names it.
    """
    parts = _read(tokenizer)
    model = _model(parts["model"])
    unknown = parts["model"].get("unk_token")
    if model["unk_id"] is None and (model["type"] != "BPE" or (unknown and not _is_byte_level(parts))):
        raise _unsupported(f"its vocabulary lacks the token of unknown text {unknown!r}")
    steps = {step: check_step(parts[step], step) for step in STEPS}
    _check_start(steps["normalizer"], steps["pre_tokenizer"])
    before, after = surrounding_tokens(tokenizer)
    special = special_token_ids(tokenizer)
    # Decoding sees another text of a token where the normalizer changes it.
    decoded = tokenizer.backend_tokenizer.id_to_token
    # Releases of transformers without the setting BPE_CLEAN_UP clean up texts of BPE, too.
    cleaned = model["type"] != "BPE" or getattr(tokenizer, BPE_CLEAN_UP, True)
    return {
        "model": model,
        **steps,
        "post": {"before": before, "after": after},
        "special": {str(tokenizer.convert_ids_to_tokens(number)): number for number in special},
        "added": [{**token, "decoded": decoded(token["id"])} for token in parts["added_tokens"]],
        "split_special_tokens": bool(tokenizer.split_special_tokens),
        "clean_up": bool(tokenizer.clean_up_tokenization_spaces and cleaned),
    }


def _unsupported(what: str) -> ScratchError:
    return ScratchError(f"the page can't show this tokenizer: {what}")


def _read(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The tokenizer.json of a tokenizer, which describes all that it does.

    Raises:
        ScratchError: it does not, because a part is written in Python; or an id is too large for a page.
    """
    own_class, backend = type(tokenizer), tokenizer.backend_tokenizer
    own = [name for name in METHODS if getattr(own_class, name) is not getattr(PreTrainedTokenizerFast, name)]
    own += [name for name in ("encode_batch", "decode") if name in getattr(backend, "__dict__", {})]
    if own:
        raise _unsupported(f"its class {own_class.__name__} has a method {own[0]} of its own")
    largest = max(backend.get_vocab().values(), default=0)
    if largest >= MAX_TOKENS:
        raise _unsupported(f"it has a token with the id {largest}, want less than {MAX_TOKENS:,}")
    try:
        return json.loads(backend.to_str())
    except Exception as error:  # tokenizers raises only this class
        raise _unsupported(f"{own_class.__name__} can't be described as JSON: {error}") from error


def _model(model: dict[str, Any]) -> dict[str, Any]:
    """The model of a tokenizer, with numbers instead of names of tokens."""
    kind = model["type"]
    if kind == "Unigram":
        if model.get("alpha") or model.get("nbest_size"):
            raise _unsupported("it chooses tokens at random (alpha, nbest_size)")
        vocabulary = {"vocab": [token for token, _ in model["vocab"]], "scores": [score for _, score in model["vocab"]]}
        fields = {name: model.get(name) for name in ("unk_id", "byte_fallback")}
        return {"type": kind, **vocabulary, **fields}
    if kind not in ("BPE", "WordLevel", "WordPiece"):
        raise _unsupported(f"it has a model of the type {kind}, want BPE, Unigram, WordLevel or WordPiece")
    tokens = model["vocab"]
    fields = {"type": kind, "vocab": _by_id(tokens), "unk_id": tokens.get(model.get("unk_token"))}
    if kind == "WordPiece":
        return {**fields, "prefix": model["continuing_subword_prefix"], "max_chars": model["max_input_chars_per_word"]}
    if kind == "WordLevel":
        return fields
    if model.get("dropout"):
        raise _unsupported(f"it leaves out merges at random (dropout {model['dropout']})")
    merges = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
    return {
        **fields,
        "merges": [[tokens[left], tokens[right]] for left, right in merges],
        **{name: bool(model.get(name)) for name in ("fuse_unk", "byte_fallback", "ignore_merges")},
        "prefix": model.get("continuing_subword_prefix") or "",
        "suffix": model.get("end_of_word_suffix") or "",
    }


def _by_id(tokens: dict[str, int]) -> list[str | None]:
    """Tokens in the order of their ids; None where an id has no token.

    Raises:
        ScratchError: two tokens have the same id.
    """
    by_id: list[str | None] = [None] * (max(tokens.values(), default=-1) + 1)
    for token, number in tokens.items():
        if by_id[number] is not None:
            raise _unsupported(f"its tokens {by_id[number]!r} and {token!r} have the same id {number}")
        by_id[number] = token
    return by_id


def check_step(config: dict[str, Any] | None, step: str) -> dict[str, Any] | None:
    """Translate the regular expressions of a normalizer, pre-tokenizer or decoder.

    Raises:
        ScratchError: the page does not have it.
    """
    if config is None:
        return None
    list_name, known = STEPS[step]
    if config["type"] == "Sequence":
        return {**config, list_name: [check_step(part, step) for part in config[list_name]]}
    if config["type"] not in known:
        names = ", ".join(sorted(known))
        raise _unsupported(f"it has the {step.replace('_', '-')} {config['type']}, which is none of {names}")
    if "Regex" in config.get("pattern", {}):
        return {**config, "pattern": {**config["pattern"], "JavaScript": to_javascript(config["pattern"]["Regex"])}}
    if config.get("pattern", {}).get("String") == "":
        raise _unsupported(f"the pattern of its {config['type']} is empty")
    return config


def _flatten(config: dict[str, Any] | None, step: str) -> list[dict[str, Any]]:
    """The parts of a step, without sequences."""
    if config is None:
        return []
    parts = config.get(STEPS[step][0]) if config["type"] == "Sequence" else None
    return [config] if parts is None else [single for part in parts for single in _flatten(part, step)]


def _is_byte_level(parts: dict[str, Any]) -> bool:
    """Whether texts are bytes before they are split into tokens, so that no character is unknown."""
    return any(
        part["type"] == "ByteLevel" for step in ("normalizer", "pre_tokenizer") for part in _flatten(parts[step], step)
    )


def _check_start(normalizer: dict[str, Any] | None, pre_tokenizer: dict[str, Any] | None) -> None:
    """A Metaspace with the scheme "first" adds a mark only where the original text starts, which the page knows unless
    the text before it was removed or split.

    Raises:
        ScratchError: it does not.
    """
    before: list[dict[str, Any]] = []
    for part in _flatten(pre_tokenizer, "pre_tokenizer"):
        if part["type"] == "Metaspace" and part.get("prepend_scheme") == "first":
            before += _flatten(normalizer, "normalizer")
            unknown = next((prior for prior in before if not _keeps_start(prior)), None)
            if unknown is not None:
                raise _unsupported(f'Metaspace with the prepend scheme "first" after {unknown["type"]}')
        before.append(part)


def _keeps_start(part: dict[str, Any]) -> bool:
    """Whether a normalizer keeps the first character of each text, or writes something in its place."""
    return part["type"] in KEEP_START and part.get("content") != ""
