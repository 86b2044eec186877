"""Limits for untrusted tokenizers: how much they may expand a text, and the time and memory of a chat template."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from ..errors import ScratchError, tokenizer_errors
from ..untrusted import bounded

MAX_GROWTH = 10_000  # output characters of a normalizer or decoder per input character
MAX_TEMPLATE = 1 << 18  # characters
MAX_REPETITION = 1000  # largest factor of `*`, which repeats a text
TEMPLATE_SECONDS, TEMPLATE_BYTES = 2.0, 256 << 20  # limits of one rendering
_GENERATION = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")  # transformers' own tags


def check_growth(backend: Tokenizer) -> None:
    """Check that the normalizer and the decoder can't expand a character to gigabytes, as a chain of replacements that
    each double a text does.

    Raises:
        ScratchError: one of them may expand a character to more than `MAX_GROWTH` characters.
    """
    for name, part in (("normalizer", backend.normalizer), ("decoder", backend.decoder)):
        growth = 1.0 if part is None else _growth(json.loads(part.__getstate__()))
        if growth > MAX_GROWTH:
            raise ScratchError(f"its {name} may expand one character to {growth:.3g}, want at most {MAX_GROWTH:,}")


def _growth(part: dict[str, Any]) -> float:
    """Return an upper bound of the number of output characters of a normalizer or decoder per input character."""
    inner = part.get("normalizers") or part.get("decoders") or []
    growth = math.prod(map(_growth, inner))
    if part.get("type") == "Replace":
        pattern = (part.get("pattern") or {}).get("String")
        growth *= max(1.0, len(part.get("content") or "") / max(1, len(pattern or "")))
    elif part.get("type") == "Prepend":
        growth *= 1 + len(part.get("prepend") or "")
    return growth


def check_template(template: Any, strict: bool = False) -> None:
    """Check a chat template, or a dictionary of them, without rendering it.

    Args:
        template: the template, or templates by name.
        strict: whether invalid Jinja is reported; otherwise rendering the template does so.

    Raises:
        ScratchError: it is not a string, is too long or too deeply nested, or may repeat a text more than
            `MAX_REPETITION` times.
    """
    for text in template.values() if isinstance(template, dict) else [template]:
        if text is None:
            continue
        if not isinstance(text, str) or len(text) > MAX_TEMPLATE:
            raise ScratchError(f"its chat template is not a string of at most {MAX_TEMPLATE:,} characters")
        try:
            tree = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(
                _GENERATION.sub("", text)
            )
        except RecursionError as error:
            raise ScratchError("its chat template is nested too deeply") from error
        except TemplateError as error:
            if strict:
                raise ScratchError(f"it is not a valid Jinja template: {error}") from error
            continue
        for operation in tree.find_all((nodes.Mul, nodes.Pow)):
            sides = [side.value for side in (operation.left, operation.right) if isinstance(side, nodes.Const)]
            bounded = any(isinstance(side, int | float) and abs(side) <= MAX_REPETITION for side in sides)
            if isinstance(operation, nodes.Pow) or not bounded:
                raise ScratchError(
                    f"its chat template multiplies (line {operation.lineno}), which can exhaust the memory: want only "
                    f"products with a constant of at most {MAX_REPETITION:,}"
                )


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], **options: Any) -> Any:
    """Call `tokenizer.apply_chat_template` with limits on time and memory; return a dictionary.

    Args:
        tokenizer: a tokenizer with a chat template.
        messages: the conversation; each message has "role" and "content".
        options: further arguments of `apply_chat_template`.

    Raises:
        ScratchError: the template rejects the messages, fails, or takes more than two seconds or 256 MiB (see
            `untrusted.bounded` for platforms that do not enforce this).
    """
    try:
        with bounded("the tokenizer's chat template", TEMPLATE_SECONDS, TEMPLATE_BYTES), tokenizer_errors():
            return tokenizer.apply_chat_template(messages, return_dict=True, **options)
    except ScratchError:
        raise
    except (TemplateError, ValueError, TypeError, ArithmeticError, LookupError, RecursionError, MemoryError) as error:
        raise ScratchError(f"the tokenizer's chat template rejects a conversation: {error}") from error
