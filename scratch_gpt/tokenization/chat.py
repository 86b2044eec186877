"""Conversations as tokens: the template that says how, which travels with the tokenizer, and which tokens are learned.

Each message is a token for its role, the text, and a token for its end. `{% generation %}` marks what the assistant
says (and its end), so that transformers and TRL find the same tokens to learn from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from ..errors import ScratchError

END = "<|end|>"
ROLE_TOKENS = {role: f"<|{role}|>" for role in ("system", "user", "assistant")}

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('a message has the role ' + message['role'] + ', want system, user or assistant') }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def add_chat_template(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Give a tokenizer that has no chat template ours, with the four tokens that it needs, and say whether it was so.
    The model's embeddings must then grow with it.

    Raises:
        ScratchError: it has a template that does not mark what the assistant says, or no `<bos>`.
    """
    if tokenizer.chat_template is not None:
        if "generation" not in str(tokenizer.chat_template).replace("add_generation_prompt", ""):
            raise ScratchError(
                "the tokenizer's chat template does not mark the assistant's words with {% generation %}, so that "
                "nothing says which tokens to learn: mark them, or remove the template"
            )
        return False
    if tokenizer.bos_token is None:
        raise ScratchError("the tokenizer has no <bos> for a conversation to begin with")
    tokens = [AddedToken(token, special=True, normalized=False) for token in (*ROLE_TOKENS.values(), END)]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    tokenizer.chat_template = CHAT_TEMPLATE
    return True


@dataclass(frozen=True)
class ChatTokens:
    """Tokenised conversations, without the token that each begins with.

    Attributes:
        start: that token.
        end: the token by which the assistant ends.
        ids, scored: of each conversation its tokens, and which of them the assistant says.
        long: how many were longer than asked, and cut.
        silent: how many of these were left out, since nothing that the assistant says was left of them.
        characters, utf8_bytes: size of what the assistant says.
    """

    start: int
    end: int
    ids: list[np.ndarray]
    scored: list[np.ndarray]
    long: int
    silent: int
    characters: int
    utf8_bytes: int


def encode_conversations(
    tokenizer: PreTrainedTokenizerFast, conversations: Iterable[list[dict[str, str]]], max_length: int
) -> ChatTokens:
    """Tokenise conversations by the tokenizer's template, cut behind `max_length` tokens.

    Raises:
        ScratchError: the template begins conversations with different tokens.
    """
    ids, scored, long, silent, said = [], [], 0, 0, []
    starts, ends = set(), set()
    for conversation in conversations:
        encoded: Any = tokenizer.apply_chat_template(
            conversation, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        starts.add(encoded["input_ids"][0])
        tokens = np.asarray(encoded["input_ids"][1:], dtype=np.int64)
        mask = np.asarray(encoded["assistant_masks"][1:], dtype=bool)
        ends.update(tokens[mask][-1:].tolist())
        long += len(tokens) > max_length
        if not mask[:max_length].any():
            silent += 1
            continue
        ids.append(tokens[:max_length])
        scored.append(mask[:max_length])
        said += [message["content"] for message in conversation if message["role"] == "assistant"]
    if len(starts) > 1 or len(ends) > 1:
        raise ScratchError(
            "the tokenizer's chat template begins conversations, or ends what the assistant says, with different "
            "tokens, want one for all"
        )
    sizes = sum(map(len, said)), sum(len(text.encode("utf-8", "surrogatepass")) for text in said)
    return ChatTokens(max(starts, default=-1), max(ends, default=-1), ids, scored, long, silent, *sizes)
