"""Tokens and passwords stay where they are: what is printed, logged or written down passes through `redact` first."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path
from typing import Any

# Names of variables that hold credentials, whatever their values look like.
_CREDENTIALS = re.compile(
    r"PASSWORDS?(_|$)|PASSWD|PASSPHRASE|SSHPASS|SECRETS?(_|$)|TOKEN(_|$)|API_?KEY"
    r"|(ACCESS|ACCOUNT|AUTH|ENCRYPTION|MASTER|PRIVATE|SIGNING)_?KEY|(^|_)(PASS|PAT|CREDENTIALS?)(_|$)|_(PWD|AUTH)$"
)
# Names that may: FOO_KEY may be a secret or name a column. Values that are words or paths are no secrets there.
_PERHAPS = re.compile(r"(^|_)KEY(_|$)")
_OF_FILES = re.compile(r"_(FILE|PATH|DIR)$")
_ORDINARY = re.compile(r"|([A-Z]?[a-z]+|[A-Z]+)?\d{0,3}|([A-Z]?[a-z]{3,}){2,3}|\d{4,8}|\d{1,2}[a-z]")
_PATTERNS = (
    (re.compile(r"\bhf_[A-Za-z0-9]{20,}"), "<token>"),
    (re.compile(r"(:/{1,2})(?:[^\s/'\"@]+:[^\s'\"]*|[^\s/'\"@]+)@"), r"\1<password>@"),
    (re.compile(r"([?&](?:[\w-]*(?:token|secret|password|signature|credential|key)|sig)=)[^&\s'\"]+", re.I), r"\1<…>"),
)
_SHORTEST, _SHORTEST_MIXED = 8, 6  # of words, and of letters with digits; shorter ones would strike out other words
_LONGEST_WORD = 19


def is_secret(name: str) -> bool:
    """Whether an environment variable of this name may hold a secret, such as HF_TOKEN or WANDB_API_KEY."""
    return bool(_CREDENTIALS.search(name.upper()) or _PERHAPS.search(name.upper()))


def holds_secret(name: str, value: str) -> bool:
    """Whether the value of an environment variable is a secret: where the name is that of a credential, any value of
    some length; where it may be, as FOO_KEY or TOKEN_FILE, any that is not made of words and small numbers alone, as
    "production" and most paths are, and is no path of this machine."""
    if not is_secret(name) or len(value) < (_SHORTEST_MIXED if _mixed(value) else _SHORTEST):
        return False
    if _CREDENTIALS.search(name.upper()) and not _OF_FILES.search(name.upper()):
        return not _is_path_here(value)
    words = re.split(r"[\W_]+", value)
    ordinary = all(len(word) <= _LONGEST_WORD and _ORDINARY.fullmatch(word) for word in words)
    return not ((ordinary and sum(map(_mixed, words)) < 3) or _is_path_here(value))


def _mixed(value: str) -> bool:
    """Whether there are letters and digits in it."""
    return any(map(str.isdigit, value)) and any(map(str.isalpha, value))


def _is_path_here(value: str) -> bool:
    return os.path.isabs(value) and os.path.exists(value)


def redact(value: Any) -> Any:
    """The same without secrets; of dictionaries and lists, every text in them. Struck out are the secrets that
    environment variables hold, the stored token of the Hub, and what looks like a token, a password in an address, or a
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

    found = {value: name for name, value in os.environ.items() if holds_secret(name, value)}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        stored = Path(constants.HF_TOKEN_PATH).read_text(encoding="utf-8").strip()
        if len(stored) >= _SHORTEST:
            found[stored] = "token"
    return found
