"""The chat template of a tokenizer as a page applies it to one message: the text before the message and the text after
it, without a template engine in JavaScript."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from ..errors import ScratchError
from ..tokenization.safety import render_chat

# Messages that a template could treat in another way: it may trim, escape, or repeat what a message says.
PROBES = ("\ue000", " How\n\n are you? <b>&amp;</b> \ue001\t", "é" * 300)


def chat_form(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """How a page writes a text as the only message of a user.

    Returns:
        `prefix` and `suffix`, which surround the message up to where the assistant answers; or `obstacle`, why the page
        can't do so; None if the tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        return None
    try:
        rendered = [_render(tokenizer, message) for message in PROBES]
    except ScratchError as error:
        return {"obstacle": f"its chat template can't be rendered: {' '.join(str(error).split())}"}
    if rendered[0].count(PROBES[0]) == 1:
        prefix, suffix = rendered[0].split(PROBES[0])
        if all(text == prefix + message + suffix for text, message in zip(rendered, PROBES, strict=True)):
            return {"prefix": prefix, "suffix": suffix}
    return {"obstacle": "its chat template changes the text of a message, which this page can't do"}


def _render(tokenizer: PreTrainedTokenizerBase, message: str) -> str:
    """A conversation of one message as text, up to where the assistant answers."""
    conversation = [{"role": "user", "content": message}]
    return str(render_chat(tokenizer, conversation, tokenize=False, add_generation_prompt=True))
