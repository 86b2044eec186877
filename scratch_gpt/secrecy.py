"""Tokens and passwords stay where they are: what is printed, logged or written down passes through `redact` first."""

from __future__ import annotations

import logging
import os
import re

_NAMES = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY)S?$")
_PATTERNS = (
    (re.compile(r"\bhf_[A-Za-z0-9]{20,}"), "<token>"),
    (re.compile(r"(?<=://)[^/\s@]+@"), "<password>@"),
    (re.compile(r"([?&][\w-]*(?:token|secret|password|signature|credential|key)=)[^&\s'\"]+", re.IGNORECASE), r"\1<…>"),
)
_SHORTEST = 8  # shorter values would strike out innocent words


def is_secret(name: str) -> bool:
    """Whether an environment variable of this name holds a secret, such as HF_TOKEN or WANDB_API_KEY."""
    return bool(_NAMES.search(name.upper()))


def redact(text: str) -> str:
    """`text` without secrets: the values of such environment variables and the stored token of the Hub, and what looks
    like a token, a password in an address, or a signature in its query."""
    from huggingface_hub import get_token

    held = {name: value for name, value in os.environ.items() if is_secret(name)} | {"token": get_token() or ""}
    for name, value in held.items():
        if len(value) >= _SHORTEST:
            text = text.replace(value, f"<{name}>")
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


class RedactingFilter(logging.Filter):
    """For the handlers of a library that logs the addresses it asks for."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        return True
