"""Tokens and passwords stay where they are: what is printed, logged or written down passes through `redact` first."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path
from typing import Any

_NAMES = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|PAT|CREDENTIALS?|APIKEY|KEY)(_|$)|_PWD$")
_PATTERNS = (
    (re.compile(r"\bhf_[A-Za-z0-9]{20,}"), "<token>"),
    (re.compile(r"(:/{1,2})(?:[^\s/'\"@]+:[^\s'\"]*|[^\s/'\"@]+)@"), r"\1<password>@"),
    (re.compile(r"([?&](?:[\w-]*(?:token|secret|password|signature|credential|key)|sig)=)[^&\s'\"]+", re.I), r"\1<…>"),
)
_SHORTEST = 8  # shorter values would strike out innocent words


def is_secret(name: str) -> bool:
    """Whether an environment variable of this name holds a secret, such as HF_TOKEN or WANDB_API_KEY."""
    return bool(_NAMES.search(name.upper()))


def redact(value: Any) -> Any:
    """The same without secrets; of dictionaries and lists, every text in them. Struck out are the values of such
    environment variables, the stored token of the Hub, and what looks like a token, a password in an address, or a
    signature in its query."""
    if isinstance(value, dict):
        return {name: redact(part) for name, part in value.items()}
    if isinstance(value, list):
        return [redact(part) for part in value]
    if not isinstance(value, str):
        return value
    for secret, name in sorted(_held().items(), key=lambda item: -len(item[0])):
        value = value.replace(secret, f"<{name}>")
    for pattern, replacement in _PATTERNS:
        value = pattern.sub(replacement, value)
    return value


def redact_logs() -> None:
    """Have every message that this process logs pass through `redact`: libraries log the addresses they ask for."""
    logging.setLogRecordFactory(_RedactedRecord)


class _RedactedRecord(logging.LogRecord):
    def getMessage(self) -> str:  # noqa: N802  (logging's name)
        return redact(super().getMessage())


def _held() -> dict[str, str]:
    """Secrets of this process, with the names that are printed in their place."""
    from huggingface_hub import constants  # its `get_token` might ask the network, and logs

    found = {value: name for name, value in os.environ.items() if is_secret(name)}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        found[Path(constants.HF_TOKEN_PATH).read_text().strip()] = "token"
    return {value: name for value, name in found.items() if len(value) >= _SHORTEST}
