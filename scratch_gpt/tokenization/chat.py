"""Conversations as tokens: the template that says how, which travels with the tokenizer, and which tokens are learned.

Each message is a token for its role, the text, and a token for its end:

    <|user|>How warm is it?<|end|><|assistant|><|tool_call|>{"name": "weather", "arguments": {}}<|end|>
    <|tool|>21 °C<|end|><|assistant|>It is 21 °C.<|end|>

`{% generation %}` marks what the assistant writes, its tool calls and its end, so that transformers and TRL find the
same tokens to learn from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..errors import ScratchError
from .safety import render_chat

END, TOOL_CALL = "<|end|>", "<|tool_call|>"
ROLE_TOKENS = {role: f"<|{role}|>" for role in ("system", "user", "assistant", "tool")}
CHAT_TOKENS = (*ROLE_TOKENS.values(), END, TOOL_CALL)

# A tool call is OpenAI's {"type": "function", "function": {"name": …, "arguments": …}}, or the inner part alone;
# arguments that are a string are JSON already.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{ raise_exception('a message has the role ' + message['role'] + ', want system, user, assistant or tool') }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] or '' }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{% set function = call['function'] or call %}"
    "{% set arguments = function['arguments'] or {} %}"
    "{{ '<|tool_call|>{\"name\": ' + function['name'] | tojson + ', \"arguments\": ' }}"
    "{{ (arguments if arguments is string else arguments | tojson) + '}' }}"
    "{% endfor %}{{ '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def add_chat_template(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Give a tokenizer that has no chat template ours, with the tokens that it needs, and say whether it was so.
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
    tokens = [AddedToken(token, special=True, normalized=False) for token in CHAT_TOKENS]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    tokenizer.chat_template = CHAT_TEMPLATE
    return True


def assistant_text(message: dict[str, Any]) -> str:
    """What the assistant writes in a message: its content and, as `CHAT_TEMPLATE` has them, its tool calls."""
    text = message.get("content") or ""
    for call in message.get("tool_calls") or []:
        function = call.get("function") or call
        arguments = function.get("arguments") or {}
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        text += f'{TOOL_CALL}{{"name": {json.dumps(function["name"], ensure_ascii=False)}, "arguments": {written}}}'
    return text


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str | list[dict[str, Any]]) -> list[int]:
    """Token ids of a prompt: a text to go on with, or messages to answer, by the tokenizer's chat template.

    Raises:
        ScratchError: it has none.
    """
    encoded: Any
    if isinstance(prompt, str):
        encoded = tokenizer(prompt)
    elif tokenizer.chat_template is None:
        raise ScratchError(
            "the prompts are messages, and the tokenizer has no chat template: 'scratch-gpt train sft' adds one"
        )
    else:
        encoded = render_chat(tokenizer, prompt, add_generation_prompt=True)
    return list(encoded["input_ids"])


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
    tokenizer: PreTrainedTokenizerFast, conversations: Iterable[list[dict[str, Any]]], max_length: int
) -> ChatTokens:
    """Tokenise conversations by the tokenizer's template, cut behind `max_length` tokens.

    Args:
        conversations: messages, each with "role", "content" and, of the assistant, "tool_calls" or not.

    Raises:
        ScratchError: the template begins conversations with different tokens, or refuses one, or leaves out tool calls.
    """
    writes_calls = "tool_calls" in str(tokenizer.chat_template)
    ids, scored, long, silent, said = [], [], 0, 0, []
    starts, ends = set(), set()
    for conversation in conversations:
        if not writes_calls and any(message.get("tool_calls") for message in conversation):
            raise ScratchError("a conversation has tool calls, which the tokenizer's chat template does not write")
        encoded = render_chat(tokenizer, conversation, return_assistant_tokens_mask=True)
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
        said += [assistant_text(message) for message in conversation if message["role"] == "assistant"]
    if len(starts) > 1 or len(ends) > 1:
        raise ScratchError(
            "the tokenizer's chat template begins conversations, or ends what the assistant says, with different "
            "tokens, want one for all"
        )
    sizes = sum(map(len, said)), sum(len(text.encode("utf-8", "surrogatepass")) for text in said)
    return ChatTokens(max(starts, default=-1), max(ends, default=-1), ids, scored, long, silent, *sizes)
