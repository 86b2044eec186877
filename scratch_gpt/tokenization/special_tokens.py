"""Special tokens of tokenizers that were trained elsewhere, which do not have all of `<pad>`, `<bos>` and `<eos>`.

BERT has `[CLS]` and `[SEP]` instead of a beginning and an end; GPT-2, Llama and Mistral have no padding token.
"""

from __future__ import annotations

import json
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..errors import ScratchError
from .training import encode_batch

# Names of tokens that models of the Hub reserve for padding without naming them as `pad_token`, such as Llama 3.1's.
RESERVED_PADDING = (
    *("<|finetune_right_pad_id|>", "<|finetune_right_pad|>", "<|vision_pad|>"),
    *("<pad>", "[PAD]", "<|pad|>", "<|padding|>", "<PAD>"),
)
SHORT_TEXTS = ("a", "A", "1", "the", ".")  # one of them is at least a token in any vocabulary


def start_token_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Id of the token that starts a text: `bos_token`, else `cls_token`; None if there is neither."""
    ids: Any = (tokenizer.bos_token_id, tokenizer.cls_token_id)
    return next((token for token in ids if token is not None), None)


def end_token_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Id of the token that ends a text: `eos_token`, else `sep_token`; None if there is neither."""
    ids: Any = (tokenizer.eos_token_id, tokenizer.sep_token_id)
    return next((token for token in ids if token is not None), None)


def first_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the token that a model of texts is given first: that which starts a text, else that which ends one.

    Raises:
        ScratchError: there is neither.
    """
    start = start_token_id(tokenizer)
    first = end_token_id(tokenizer) if start is None else start
    if first is None:
        raise ScratchError("the tokenizer has no token that starts or ends a text: want a bos_token or an eos_token")
    return first


def special_id_fields(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    """Ids of the special tokens, by the field of a config."""
    ends = {"bos_token_id": start_token_id(tokenizer), "eos_token_id": end_token_id(tokenizer)}
    padding: Any = tokenizer.pad_token_id
    return {**ends, "pad_token_id": padding}


def unknown_token_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Id of the token that stands for unknown text; None if there is none, or if it is the token that starts or ends
    texts, as in GPT-2, whose byte-level vocabulary covers every text."""
    unknown: Any = tokenizer.unk_token_id
    return None if unknown in (start_token_id(tokenizer), end_token_id(tokenizer)) else unknown


def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of all special tokens, including those that have no name such as `eos_token`."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return sorted(added | set(tokenizer.all_special_ids))


def choose_padding(tokenizer: PreTrainedTokenizerFast) -> str | None:
    """Give a tokenizer without a padding token one of its own tokens, so that its model needs no new embedding: a token
    that is reserved for padding; else an unknown token that no text yields, because unknown characters are encoded as
    bytes; else the end of text.

    Padding is masked and never scored, and no token is recognised as padding by its id: a text whose end is also the
    padding token is scored with its end.

    Returns:
        One line that names the chosen token, or None if the tokenizer has a padding token.
    """
    if tokenizer.pad_token is not None:
        return None
    vocabulary = tokenizer.get_vocab()
    special, end = set(special_token_ids(tokenizer)), end_token_id(tokenizer)
    reserved = next((name for name in RESERVED_PADDING if vocabulary.get(name) in special), None)
    if reserved is not None:
        chosen, reason = reserved, "which is reserved for padding"
    elif (unknown := unknown_token_id(tokenizer)) is not None and _covers_every_text(tokenizer):
        chosen, reason = str(tokenizer.convert_ids_to_tokens(unknown)), "which no text contains"
    elif end is not None:
        chosen, reason = str(tokenizer.convert_ids_to_tokens(end)), "its end-of-text token, masked where it is padding"
    else:
        return None
    tokenizer.pad_token = chosen
    return f"the tokenizer has no padding token: rows are padded with {chosen}, {reason}"


def _covers_every_text(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the tokenizer encodes unknown characters as bytes (`<0x00>` to `<0xFF>`) instead of an unknown token."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary = tokenizer.get_vocab()
    return bool(model.get("byte_fallback")) and all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))


def surrounding_tokens(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer adds before and after a text: `[CLS]` and `[SEP]` for BERT, `<s>`
    and `</s>` for RoBERTa, `<bos>` and nothing for a GPT.

    Raises:
        ScratchError: the tokenizer changes the tokens of the text when it adds special tokens.
    """
    for text in SHORT_TEXTS:
        (inner,) = encode_batch(tokenizer, [text])
        (whole,) = encode_batch(tokenizer, [text], add_special_tokens=True)
        for start in range(len(whole) - len(inner) + 1) if inner else ():
            if whole[start : start + len(inner)] == inner:
                return whole[:start], whole[start + len(inner) :]
    raise ScratchError("the tokenizer changes a text when it adds special tokens around it: use another tokenizer")
