"""Chat template, which is saved with the tokenizer, and tokenisation of conversations for supervised fine-tuning.

Each message is encoded as a role token, the text, and an end token:

    <|user|>How warm is it?<|end|><|assistant|><|tool_call|>{"name": "weather", "arguments": {}}<|end|>
    <|tool|>21 °C<|end|><|assistant|>It is 21 °C.<|end|>

`{% generation %}` marks the text, the tool calls and the end token of the assistant, so that transformers and TRL score
the same tokens. Another template that the tokenizer has is kept (see `answers`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..errors import ScratchError
from .answers import ScoredSequence, find_answers
from .safety import check_template, render_chat
from .special_tokens import first_token_id, special_token_ids

END, TOOL_CALL = "<|end|>", "<|tool_call|>"
ROLE_TOKENS = {role: f"<|{role}|>" for role in ("system", "user", "assistant", "tool")}
CHAT_TOKENS = (*ROLE_TOKENS.values(), END, TOOL_CALL)
NO_TEMPLATE = (
    "the prompts are messages, and the tokenizer has no chat template: give one with --chat_template FILE, or tune the "
    "model with 'scratch-gpt train sft', which adds one"
)

# A tool call is {"type": "function", "function": {"name": …, "arguments": …}} as in the OpenAI API, or only the inner
# object; arguments given as a string are JSON already.
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
    """Add the chat template and its special tokens to a tokenizer that has no chat template.

    Returns:
        Whether the template was added; the model's embeddings must then be resized.

    Raises:
        ScratchError: the tokenizer has no token that starts or ends a text.
    """
    if tokenizer.chat_template is not None:
        return False
    first = first_token_id(tokenizer)
    tokens = [AddedToken(token, special=True, normalized=False) for token in CHAT_TOKENS]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    if tokenizer.bos_token_id == first:
        tokenizer.chat_template = CHAT_TEMPLATE
    else:  # the template writes it as text
        name = json.dumps(tokenizer.convert_ids_to_tokens(first), ensure_ascii=False)
        tokenizer.chat_template = CHAT_TEMPLATE.replace("bos_token", name)
    return True


def read_chat_template(tokenizer: PreTrainedTokenizerFast, path: str | Path) -> None:
    """Set the chat template of a tokenizer to that of a Jinja file.

    Raises:
        ScratchError: the file can't be read, or its template is not valid or may take too much memory.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ScratchError(f"chat_template {path} can't be read: {reason}") from error
    try:
        check_template(text, strict=True)
    except ScratchError as error:
        raise ScratchError(f"chat_template {path} can't be used: {error}") from error
    tokenizer.chat_template = text


def assistant_text(message: dict[str, Any]) -> str:
    """Return the content of an assistant message and its tool calls, formatted as in `CHAT_TEMPLATE`."""
    text = message.get("content") or ""
    for call in message.get("tool_calls") or []:
        function = call.get("function") or call
        arguments = function.get("arguments") or {}
        arguments = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        text += f'{TOOL_CALL}{{"name": {json.dumps(function["name"], ensure_ascii=False)}, "arguments": {arguments}}}'
    return text


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str | list[dict[str, Any]]) -> list[int]:
    """Return the token ids of a prompt: a text to continue, or messages to answer, formatted by the tokenizer's chat
    template.

    Raises:
        ScratchError: the prompt has messages, and the tokenizer has no chat template or rendering it fails.
    """
    encoded: Any
    if isinstance(prompt, str):
        encoded = tokenizer(prompt)
    elif tokenizer.chat_template is None:
        raise ScratchError(NO_TEMPLATE)
    else:
        encoded = render_chat(tokenizer, prompt, add_generation_prompt=True)
    return list(encoded["input_ids"])


@dataclass(frozen=True)
class ChatTokens:
    """Tokenised conversations, without their first token, which is the same for all.

    Attributes:
        start: id of the first token; -1 if there are no conversations.
        ends: ids of the tokens that end an assistant message, in order; several if they are all special tokens.
        ids: token ids of each sequence, a conversation or a part of it, int64, shape (T,).
        scored: boolean mask (T,) of the assistant's tokens of each sequence.
        num_conversations: number of conversations that were not skipped.
        num_split: number of those whose answers are in several sequences, because the template rewrites them.
        num_too_long: number of conversations longer than the limit, which were truncated or skipped.
        num_truncated: number of those that were not skipped.
        num_unanswered: number of conversations that were skipped because they have no assistant tokens within the
            limit.
        characters, utf8_bytes: size of the assistant's text in the conversations that were not skipped.
    """

    start: int
    ends: list[int]
    ids: list[np.ndarray]
    scored: list[np.ndarray]
    num_conversations: int
    num_split: int
    num_too_long: int
    num_truncated: int
    num_unanswered: int
    characters: int
    utf8_bytes: int


def encode_conversations(
    tokenizer: PreTrainedTokenizerFast, conversations: Iterable[list[dict[str, Any]]], max_length: int
) -> ChatTokens:
    """Tokenise conversations with the tokenizer's chat template, truncated to `max_length` tokens.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        conversations: lists of messages, each with "role" and "content"; assistant messages may have "tool_calls".
        max_length: maximum length in tokens, without the first token.

    Raises:
        ScratchError: rendering fails, the template omits tool calls, or the first token of the conversations or the
            last one of the assistant messages is not the same for all.
    """
    writes_calls = "tool_calls" in str(tokenizer.chat_template)
    kept: list[ScoredSequence] = []
    answers: list[str] = []
    counts: Counter[str] = Counter()
    starts, ends = set(), set()
    for conversation in conversations:
        if not writes_calls and any(message.get("tool_calls") for message in conversation):
            raise ScratchError("a conversation has tool calls, which the tokenizer's chat template omits")
        sequences = find_answers(tokenizer, conversation)
        starts |= {sequence.ids[0] for sequence in sequences}
        ends |= {last for sequence in sequences for last in _last_tokens(sequence)}
        answered = [sequence for sequence in sequences if any(sequence.scored[1 : max_length + 1])]
        is_long = any(len(sequence.ids) > max_length + 1 for sequence in sequences)
        counts["too long"] += is_long
        if not answered:
            counts["unanswered"] += 1
            continue
        counts.update(kept=1, truncated=is_long, split=len(sequences) > 1)
        kept += answered
        answers += [assistant_text(message) for message in conversation if message["role"] == "assistant"]
    if len(starts) > 1 or (len(ends) > 1 and not ends <= set(special_token_ids(tokenizer))):
        raise ScratchError(
            "the tokenizer's chat template starts conversations, or ends assistant messages, with different tokens; "
            "want the same token for all"
        )
    return ChatTokens(
        start=max(starts, default=-1),
        ends=sorted(ends),
        ids=[np.asarray(sequence.ids[1 : max_length + 1], dtype=np.int64) for sequence in kept],
        scored=[np.asarray(sequence.scored[1 : max_length + 1], dtype=bool) for sequence in kept],
        num_conversations=counts["kept"],
        num_split=counts["split"],
        num_too_long=counts["too long"],
        num_truncated=counts["truncated"],
        num_unanswered=counts["unanswered"],
        characters=sum(map(len, answers)),
        utf8_bytes=sum(len(text.encode("utf-8", "surrogatepass")) for text in answers),
    )


def _last_tokens(sequence: ScoredSequence) -> Iterator[int]:
    """The last token of each answer."""
    for token, is_scored, continues in zip(sequence.ids, sequence.scored, [*sequence.scored[1:], False], strict=True):
        if is_scored and not continues:
            yield token
