"""Find the assistant's tokens in a conversation, with any chat template.

A template may mark them with `{% generation %}`. Most do not; the tokens of an answer are then those that follow its
prompt, which is the conversation before it with `add_generation_prompt`:

    prompt    <|im_start|>user⏎How are you?<|im_end|>⏎<|im_start|>assistant⏎
    whole     <|im_start|>user⏎How are you?<|im_end|>⏎<|im_start|>assistant⏎Well.<|im_end|>⏎
    learned                                                                 Well.<|im_end|>

A template that writes an answer differently once others follow, such as one that removes the reasoning of earlier
answers, gives several sequences: each answer is learned in the form in which the model writes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..errors import ScratchError
from .safety import render_chat
from .special_tokens import special_token_ids, unknown_token_id

Messages = list[dict[str, Any]]

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
SHOWN = 300  # characters of a part of a sample
EXAMPLE: Messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@dataclass(frozen=True)
class ScoredSequence:
    """A tokenised conversation, or the part of it up to one of its answers.

    Attributes:
        ids: token ids.
        scored: whether each token is the assistant's, so that it is learned.
    """

    ids: list[int]
    scored: list[bool]


def marks_answers(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template marks the assistant's tokens with `{% generation %}`."""
    return GENERATION.search(str(tokenizer.chat_template)) is not None


def find_answers(tokenizer: PreTrainedTokenizerBase, conversation: Messages) -> list[ScoredSequence]:
    """Tokenise a conversation and find the assistant's tokens, each answer with the special token that ends it.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        conversation: messages with "role" and "content".

    Returns:
        The conversation, or several sequences if its template writes earlier answers differently.

    Raises:
        ScratchError: rendering fails, or the template does not tell where an answer starts or ends.
    """
    if not marks_answers(tokenizer):
        return _by_prefixes(tokenizer, conversation)
    encoded = render_chat(tokenizer, conversation, return_assistant_tokens_mask=True)
    ids, scored = list(encoded["input_ids"]), [bool(mark) for mark in encoded["assistant_masks"]]
    at = 0
    for is_answer, part in groupby(scored[:]):
        length = len(list(part))
        end = answer_length(tokenizer, ids[at : at + length]) if is_answer else None
        if end is not None:  # what follows the end of an answer, such as a line feed, is never generated
            scored[at + end : at + length] = [False] * (length - end)
        at += length
    return [ScoredSequence(ids, scored)]


def _by_prefixes(tokenizer: PreTrainedTokenizerBase, conversation: Messages) -> list[ScoredSequence]:
    """Find each answer as what follows its prompt; see the module."""
    turns = [i for i, message in enumerate(conversation) if i and message["role"] == "assistant"]
    whole = render_chat(tokenizer, conversation)["input_ids"]
    scored, rewritten = [False] * len(whole), []
    for turn in turns:
        prompt, answer = split_answer(tokenizer, conversation[:turn], conversation[turn : turn + 1])
        length = answer_length(tokenizer, answer)
        if length is None:
            raise ScratchError(
                "the tokenizer's chat template ends an answer with no special token, so that a model could not learn "
                f"to stop ({_end_of(tokenizer, answer)!r}): give a template that writes {{{{ eos_token }}}} after each "
                "answer (--chat_template FILE)"
            )
        until = len(prompt) + length
        if whole[:until] == [*prompt, *answer[:length]]:
            scored[len(prompt) : until] = [True] * length
        else:
            rewritten.append(ScoredSequence([*prompt, *answer[:length]], [False] * len(prompt) + [True] * length))
    if not any(scored):
        return rewritten or [ScoredSequence(list(whole), scored)]
    last = len(scored) - scored[::-1].index(True)
    return [*rewritten, ScoredSequence(list(whole[:last]), scored[:last])]


def split_answer(tokenizer: PreTrainedTokenizerBase, prompt: Messages, answer: Messages) -> tuple[list[int], list[int]]:
    """Tokenise a conversation that consists of a prompt and its answer.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        prompt: the messages before the answer.
        answer: the messages of the answer.

    Returns:
        The token ids of the prompt and those of the answer; together, those of the conversation.

    Raises:
        ScratchError: rendering fails, or the conversation does not start with the prompt, so that the start of the
            answer is unknown.
    """
    before = list(render_chat(tokenizer, prompt, add_generation_prompt=True)["input_ids"])
    whole = list(render_chat(tokenizer, [*prompt, *answer])["input_ids"])
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, whole, strict=False)))
    if same == len(before):
        return before, whole[same:]
    # White space at the start of an answer can be one token with the line feed that ends the prompt.
    joined = str(tokenizer.decode(whole[same : same + 1]))
    if joined.isspace() and joined.startswith(str(tokenizer.decode(before[same:]))):
        return whole[: same + 1], whole[same + 1 :]
    texts = [_end_of(tokenizer, ids[: same + 12]) for ids in (before, whole)]
    raise ScratchError(
        "the tokenizer's chat template writes a prompt differently with and without its answer, so that the start of "
        f"the answer is unknown ({texts[0]!r} and {texts[1]!r}): give a template that marks answers with "
        "{% generation %} (--chat_template FILE)"
    )


def answer_length(tokenizer: PreTrainedTokenizerBase, answer: list[int]) -> int | None:
    """Number of tokens of an answer up to the special token that ends it; None if there is none. After it there are
    only special tokens and white space, which the model does not generate."""
    special = set(special_token_ids(tokenizer)) - {unknown_token_id(tokenizer)}
    length = None
    for at in range(len(answer) - 1, -1, -1):
        if answer[at] in special:
            length = at + 1
        elif not str(tokenizer.decode(answer[at : at + 1])).isspace():
            break
    return length


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Id of the special token that ends an answer in the tokenizer's chat template; None if it is unknown."""
    if tokenizer.chat_template is None:
        return None
    try:
        _, answer = split_answer(tokenizer, EXAMPLE[:1], EXAMPLE[1:])
    except ScratchError:  # a template may reject the example
        return None
    length = answer_length(tokenizer, answer)
    return None if length is None else answer[length - 1]


def marked_text(tokenizer: PreTrainedTokenizerBase, ids: list[int], scored: list[bool]) -> str:
    """Decode a sequence with special tokens, what is learned between « and »; long parts are shortened.

    Args:
        tokenizer: decodes the tokens.
        ids: token ids (T).
        scored: whether each token is learned (T).
    """
    shown, at = "", 0
    for is_learned, part in groupby(scored):
        length = len(list(part))
        text = str(tokenizer.decode(ids[at : at + length]))
        at += length
        if len(text) > SHOWN:
            text = f"{text[: SHOWN // 2]} … {text[-SHOWN // 2 :]}"
        shown += f"«{text}»" if is_learned else text
    return shown


def _end_of(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text = str(tokenizer.decode(ids))
    return text if len(text) <= 40 else f"…{text[-40:]}"
