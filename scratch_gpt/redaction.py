"""Tokens and passwords stay where they are: what is printed, logged or written down passes through `redact` first.

The list of token formats is our own. detect-secrets, the Python package that has one, takes 0.3 s to import, needs
`requests`, and has had no release since 2024; its patterns of assignments (`password = …`) would strike code out too.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

# Names of variables that hold credentials, whatever their values look like.
_CREDENTIALS = re.compile(
    r"PASSWORDS?(_|$)|PASSWD|PASSPHRASE|SSHPASS|SECRETS?(_|$)|TOKENS?(_|$)|API_?KEY|AUTH_CONFIG(_|$)"
    r"|(ACCESS|ACCOUNT|AUTH|ENCRYPTION|MASTER|PRIVATE|SIGNING)_?KEY"
    r"|(^|_)(PASS|PAT|CREDENTIALS?|COOKIES?|BEARER|JWT)(_|$)|_(PWD|AUTH)$"
)
# Names that may: FOO_KEY may be a secret or name a column. Values that are words or paths are no secrets there.
_PERHAPS = re.compile(r"(^|_)KEYS?(_|$)")
# Names that look like these and are counts of tokens, or keys that open nothing.
_HARMLESS = re.compile(
    r"(^|_)(MAX|MIN|NUM|TOTAL)_([A-Z]+_)?TOKENS$"
    r"|(^|_)(CACHE|COLUMN|FOREIGN|GROUP|INDEX|PARTITION|PRIMARY|PUBLIC|ROW|SORT)_KEYS?$"
)
_OF_FILES = re.compile(r"_(FILE|PATH|DIR)$")
_ORDINARY = re.compile(r"|([A-Z]?[a-z]+|[A-Z]+)?\d{0,3}|([A-Z]?[a-z]{3,}){2,3}|\d{4,8}|\d{1,2}[a-z]")
_COUNT = re.compile(r"[\d.,_]+")
_SHORTEST, _SHORTEST_MIXED = 8, 6  # of words, and of letters with digits; shorter ones would strike out other words
_SHORTEST_WORD = 6  # of the value of a credential that is a word: it is struck out where it stands alone
_SHORTEST_LINE = 16  # of one line of a secret that has several
_LONGEST_WORD = 19

# Tokens whose form tells what they are.
_TOKENS = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}"  # Hugging Face
    r"|\bgh[oprsu]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}"
    r"|\bgl(?:agent|cbt|dt|ffct|ft|imt|oas|pat|ptt|rt|soat)-[\w-]{20,}"  # GitLab
    r"|\bsk-(?=[\w-]*\d)[\w-]{16,}|\b[rs]k_(?:live|test)_[A-Za-z0-9]{10,}"  # OpenAI, Anthropic and others; Stripe
    r"|\b(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[\w-]{35}"  # AWS, Google
    r"|\bxox[a-z]-[A-Za-z0-9-]{10,}|\bxapp-[A-Za-z0-9-]{10,}"  # Slack
    r"|\bnpm_[A-Za-z0-9]{36}|\bpypi-[\w-]{50,}|\bdckr_(?:pat|oat)_[\w-]{20,}|\bSG\.[\w-]{16,}\.[\w-]{16,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"  # JSON web tokens
    r"|-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)"
)
_PATTERNS = (
    (re.compile(r"\b((?:proxy-)?authorization['\"]?\s*[:=]\s*['\"]?)(?:[a-z]+\s+)?[^\s'\",]+", re.I), r"\1<…>"),
    (re.compile(r"\b(bearer\s+)(?=[^\s'\",]*\d)[\w.~+/=-]{8,}", re.I), r"\1<…>"),
    (re.compile(r"\b((?:set-)?cookie['\"]?\s*:\s*['\"]?)[^\r\n'\"]+", re.I), r"\1<…>"),
    (re.compile(r"\b(x-[\w-]{0,40}(?:key|secret|token)['\"]?\s*:\s*['\"]?)[^\s'\",]+", re.I), r"\1<…>"),
    (_TOKENS, "<token>"),
    (re.compile(r"(:/{1,2})(?:[^\s/'\"@]{1,2000}:[^\s'\"]{0,2000}|[^\s/'\"@]{1,2000})@"), r"\1<password>@"),
    (
        re.compile(
            r"([?&#;](?:[\w.-]*(?:token|secret|pass|passwd|password|passphrase|pwd|signature|credentials?|api_?key|key)"
            r"|sig|auth|jwt)=)[^&\s'\"]+",
            re.I,
        ),
        r"\1<…>",
    ),
)


def is_secret(name: str) -> bool:
    """Whether an environment variable of this name may hold a secret, such as HF_TOKEN or WANDB_API_KEY."""
    upper = name.upper()
    return bool(_CREDENTIALS.search(upper) or _PERHAPS.search(upper)) and not _HARMLESS.search(upper)


def holds_secret(name: str, value: str) -> bool:
    """Whether the value of an environment variable is a secret: where the name is that of a credential, any value of
    some length; where it may be, as FOO_KEY or TOKEN_FILE, any that is not made of words and small numbers alone, as
    "production" and most paths are, and is no path of this machine."""
    value = value.strip()
    if not is_secret(name) or len(value) < _SHORTEST_WORD:
        return False
    if _CREDENTIALS.search(name.upper()) and not _OF_FILES.search(name.upper()):
        counts = "TOKENS" in name.upper() and _COUNT.fullmatch(value)
        return not counts and not _is_path_here(value)
    if len(value) < (_SHORTEST_MIXED if _mixed(value) else _SHORTEST):
        return False
    words = re.split(r"[\W_]+", value)
    ordinary = all(len(word) <= _LONGEST_WORD and _ORDINARY.fullmatch(word) for word in words)
    return not ((ordinary and sum(map(_mixed, words)) < 3) or _is_path_here(value))


def _mixed(value: str) -> bool:
    """Whether there are letters and digits in it."""
    return any(map(str.isdigit, value)) and any(map(str.isalpha, value))


def _is_path_here(value: str) -> bool:
    return os.path.isabs(value) and os.path.exists(value)


def redact(value: Any) -> Any:
    """The same without secrets; of dictionaries and lists, every text in them, keys too. Struck out are the secrets
    that environment variables hold, the stored token of the Hub, and what looks like a token, a password in an
    address, a credential or signature in its query, or the header of a request that has one."""
    return _redact(value, _held())


def _redact(value: Any, held: list[tuple[str, str]]) -> Any:
    if isinstance(value, dict):
        return {_redact(name, held): _redact(part, held) for name, part in value.items()}
    if isinstance(value, list):
        return [_redact(part, held) for part in value]
    if not isinstance(value, str):
        return value
    for secret, replacement in held:
        if secret not in value:
            continue
        if len(secret) >= _SHORTEST or _mixed(secret):
            value = value.replace(secret, replacement)
        else:  # a short word, which is part of others
            value = re.sub(rf"(?<![^\W_]){re.escape(secret)}(?![^\W_])", replacement, value)
    for pattern, replacement in _PATTERNS:
        value = pattern.sub(replacement, value)
    return value


def redact_logs() -> None:
    """Have every message that this process logs pass through `redact`: libraries log the addresses they ask for."""
    logging.setLogRecordFactory(_RedactedRecord)


class _RedactedRecord(logging.LogRecord):
    def getMessage(self) -> str:  # noqa: N802  (logging's name)
        return redact(super().getMessage())


def _held() -> list[tuple[str, str]]:
    """Secrets of this process in every form, longest first, with what is printed in their place."""
    from huggingface_hub import constants  # its `get_token` might ask the network, and logs

    found = {value: name for name, value in os.environ.items() if holds_secret(name, value)}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        stored = Path(constants.HF_TOKEN_PATH).read_text(encoding="utf-8").strip()
        if len(stored) >= _SHORTEST:
            found[stored] = "token"
    forms = {form: f"<{name}>" for value, name in found.items() for form in _forms(value)}
    return sorted(forms.items(), key=lambda item: -len(item[0]))


@functools.lru_cache(maxsize=256)
def _forms(secret: str) -> frozenset[str]:
    """The forms of a secret in texts: without surrounding spaces and line ends, in one line, escaped, URL-encoded;
    of several lines each long one, of JSON each long text."""
    bare = secret.strip()
    plain = {bare, " ".join(bare.split())}
    plain |= {line.strip() for line in bare.splitlines() if len(line.strip()) >= _SHORTEST_LINE}
    if bare.startswith(("{", "[")):
        with contextlib.suppress(ValueError, RecursionError):
            plain |= {text for text in _texts(json.loads(bare)) if len(text) >= _SHORTEST}
    encoded = {encode(text) for text in plain for encode in (quote, quote_plus, functools.partial(quote, safe=""))}
    encoded |= {re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), text) for text in encoded}
    escaped = {write(text)[1:-1] for text in plain for write in (repr, json.dumps)}
    return frozenset(plain | encoded | escaped)


def _texts(value: Any) -> list[str]:
    """The strings in parsed JSON, without the names of fields."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in _texts(part)]
