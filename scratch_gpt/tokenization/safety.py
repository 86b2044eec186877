"""Bounds for tokenizers that someone else made: how much they may lengthen a text, and how long a template may run."""

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

MAX_GROWTH = 10_000  # characters that a normalizer or decoder may make of one
MAX_TEMPLATE, MAX_REPETITION = 1 << 18, 1000  # characters; times that a text may be repeated by `*`
TEMPLATE_SECONDS, TEMPLATE_BYTES = 2.0, 256 << 20  # that one rendering may take
_GENERATION = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")  # transformers' own tags


def check_growth(backend: Tokenizer) -> None:
    """Check that no chain of replacements, each of which doubles a text, makes gigabytes of one character.

    Raises:
        ScratchError: normalizer or decoder may make more than `MAX_GROWTH` characters of one.
    """
    for name, part in (("normalizer", backend.normalizer), ("decoder", backend.decoder)):
        growth = 1.0 if part is None else _growth(json.loads(part.__getstate__()))
        if growth > MAX_GROWTH:
            raise ScratchError(f"its {name} may make {growth:.3g} characters of one, want at most {MAX_GROWTH:,}")


def _growth(part: dict[str, Any]) -> float:
    """How many characters a normalizer or decoder makes of one, at most."""
    inner = part.get("normalizers") or part.get("decoders") or []
    growth = math.prod(map(_growth, inner))
    if part.get("type") == "Replace":
        pattern = (part.get("pattern") or {}).get("String")
        growth *= max(1.0, len(part.get("content") or "") / max(1, len(pattern or "")))
    elif part.get("type") == "Prepend":
        growth *= 1 + len(part.get("prepend") or "")
    return growth


def check_template(template: Any) -> None:
    """Check a chat template, or several by name, without rendering one.

    Raises:
        ScratchError: it is too long, is no Jinja template, or repeats a text more than `MAX_REPETITION` times.
    """
    for text in template.values() if isinstance(template, dict) else [template]:
        if text is None:
            continue
        if not isinstance(text, str) or len(text) > MAX_TEMPLATE:
            raise ScratchError(f"its chat template is no text of at most {MAX_TEMPLATE:,} characters")
        try:
            tree = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(
                _GENERATION.sub("", text)
            )
        except RecursionError as error:
            raise ScratchError("its chat template is nested too deep") from error
        except TemplateError:
            continue  # rendering it will fail, and say why
        for operation in tree.find_all((nodes.Mul, nodes.Pow)):
            sides = [side.value for side in (operation.left, operation.right) if isinstance(side, nodes.Const)]
            bounded = any(isinstance(side, int | float) and abs(side) <= MAX_REPETITION for side in sides)
            if isinstance(operation, nodes.Pow) or not bounded:
                raise ScratchError(
                    f"its chat template multiplies (line {operation.lineno}), which can fill the memory: only products "
                    f"with a number of at most {MAX_REPETITION:,} are taken"
                )


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], **options: Any) -> Any:
    """`tokenizer.apply_chat_template` with dictionaries as result, bounded in time and memory.

    Args:
        tokenizer: with a chat template.
        messages: each with "role" and "content".
        options: of `apply_chat_template`.

    Raises:
        ScratchError: the template refuses the messages, fails, or takes more than two seconds or 256 MiB (see
            `untrusted.bounded` for where that is not enforced).
    """
    try:
        with bounded("the tokenizer's chat template", TEMPLATE_SECONDS, TEMPLATE_BYTES), tokenizer_errors():
            return tokenizer.apply_chat_template(messages, return_dict=True, **options)
    except ScratchError:
        raise
    except (TemplateError, ValueError, TypeError, ArithmeticError, LookupError, RecursionError, MemoryError) as error:
        raise ScratchError(f"the tokenizer's chat template refuses a conversation: {error}") from error
