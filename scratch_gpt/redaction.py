"""Redaction of tokens and passwords: what is printed, logged or saved passes through `redact` first.

The list of token formats is our own. detect-secrets, the Python package that has one, takes 0.3 s to import, requires
`requests`, and has had no release since 2024; its patterns of assignments (`password = …`) would also redact code.
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

# Names of environment variables that hold credentials, whatever their values look like.
_CREDENTIALS = re.compile(
    r"PASSWORDS?(_|$)|PASSWD|PASSPHRASE|SSHPASS|SECRETS?(_|$)|TOKENS?(_|$)|API_?KEY|AUTH_CONFIG(_|$)"
    r"|(ACCESS|ACCOUNT|AUTH|ENCRYPTION|MASTER|PRIVATE|SIGNING)_?KEY"
    r"|(^|_)(PASS|PAT|CREDENTIALS?|COOKIES?|BEARER|JWT)(_|$)|_(PWD|AUTH)$"
)
# Names that may: FOO_KEY may be a secret or name a column. Their values that are words or paths are not secrets.
_POSSIBLE_CREDENTIALS = re.compile(r"(^|_)KEYS?(_|$)")
# Names that look like these but are counts of tokens, or keys that are not credentials.
_HARMLESS = re.compile(
    r"(^|_)(MAX|MIN|NUM|TOTAL)_([A-Z]+_)?TOKENS$"
    r"|(^|_)(CACHE|COLUMN|FOREIGN|GROUP|INDEX|PARTITION|PRIMARY|PUBLIC|ROW|SORT)_KEYS?$"
)
_FILE_NAMES = re.compile(r"_(FILE|PATH|DIR)$")
_ORDINARY_WORD = re.compile(r"|([A-Z]?[a-z]+|[A-Z]+)?\d{0,3}|([A-Z]?[a-z]{3,}){2,3}|\d{4,8}|\d{1,2}[a-z]")
_COUNT = re.compile(r"[\d.,_]+")
_MIN_LENGTH, _MIN_LENGTH_MIXED = (
    8,
    6,
)  # of words, and of letters with digits; shorter ones would match inside other words
_MIN_LENGTH_WORD = 6  # of a credential that is a word: it is redacted as a whole word only
_MIN_LENGTH_LINE = 16  # of one line of a multi-line secret
_MAX_LENGTH_WORD = 19

# Tokens that are recognised by their format.
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
    return bool(_CREDENTIALS.search(upper) or _POSSIBLE_CREDENTIALS.search(upper)) and not _HARMLESS.search(upper)


def holds_secret(name: str, value: str) -> bool:
    """Whether the value of an environment variable is a secret.

    If the name is that of a credential, any value of sufficient length is. If the name may be one, such as FOO_KEY or
    TOKEN_FILE, a value is a secret unless it consists of words and small numbers only, as "production" and most paths
    do, or is an existing path.
    """
    value = value.strip()
    if not is_secret(name) or len(value) < _MIN_LENGTH_WORD:
        return False
    if _CREDENTIALS.search(name.upper()) and not _FILE_NAMES.search(name.upper()):
        counts = "TOKENS" in name.upper() and _COUNT.fullmatch(value)
        return not counts and not _is_path_here(value)
    if len(value) < (_MIN_LENGTH_MIXED if _has_letters_and_digits(value) else _MIN_LENGTH):
        return False
    words = re.split(r"[\W_]+", value)
    ordinary = all(len(word) <= _MAX_LENGTH_WORD and _ORDINARY_WORD.fullmatch(word) for word in words)
    return not ((ordinary and sum(map(_has_letters_and_digits, words)) < 3) or _is_path_here(value))


def _has_letters_and_digits(value: str) -> bool:
    """Whether a value contains both letters and digits."""
    return any(map(str.isdigit, value)) and any(map(str.isalpha, value))


def _is_path_here(value: str) -> bool:
    return os.path.isabs(value) and os.path.exists(value)


def redact(value: Any) -> Any:
    """Replace secrets in a value; in dictionaries and lists, in every string, including keys.

    Secrets are those in environment variables, the stored token of the Hub, and what looks like a token, a password in
    a URL, a credential or signature in its query, or a request header with one.
    """
    return _redact(value, _known_secrets())


def _redact(value: Any, secrets: list[tuple[str, str]]) -> Any:
    if isinstance(value, dict):
        return {_redact(name, secrets): _redact(part, secrets) for name, part in value.items()}
    if isinstance(value, list):
        return [_redact(part, secrets) for part in value]
    if not isinstance(value, str):
        return value
    for secret, replacement in secrets:
        if secret not in value:
            continue
        if len(secret) >= _MIN_LENGTH or _has_letters_and_digits(secret):
            value = value.replace(secret, replacement)
        else:  # a short word, which may be part of other words
            value = re.sub(rf"(?<![^\W_]){re.escape(secret)}(?![^\W_])", replacement, value)
    for pattern, replacement in _PATTERNS:
        value = pattern.sub(replacement, value)
    return value


def redact_logs() -> None:
    """Pass every log message of this process through `redact`: libraries log the URLs that they request."""
    logging.setLogRecordFactory(_RedactedRecord)


class _RedactedRecord(logging.LogRecord):
    def getMessage(self) -> str:  # noqa: N802  (logging's name)
        return redact(super().getMessage())


def _known_secrets() -> list[tuple[str, str]]:
    """Secrets of this process in every form, longest first, with their replacements."""
    from huggingface_hub import constants  # its `get_token` might use the network, and logs

    found = {value: name for name, value in os.environ.items() if holds_secret(name, value)}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        stored = Path(constants.HF_TOKEN_PATH).read_text(encoding="utf-8").strip()
        if len(stored) >= _MIN_LENGTH:
            found[stored] = "token"
    forms = {form: f"<{name}>" for value, name in found.items() for form in _forms(value)}
    return sorted(forms.items(), key=lambda item: -len(item[0]))


@functools.lru_cache(maxsize=256)
def _forms(secret: str) -> frozenset[str]:
    """The forms in which a secret can occur in a text: stripped, on one line, escaped, URL-encoded; each long line of a
    multi-line secret, and each long string in JSON."""
    bare = secret.strip()
    plain = {bare, " ".join(bare.split())}
    plain |= {line.strip() for line in bare.splitlines() if len(line.strip()) >= _MIN_LENGTH_LINE}
    if bare.startswith(("{", "[")):
        with contextlib.suppress(ValueError, RecursionError):
            plain |= {text for text in _texts(json.loads(bare)) if len(text) >= _MIN_LENGTH}
    encoded = {encode(text) for text in plain for encode in (quote, quote_plus, functools.partial(quote, safe=""))}
    encoded |= {re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), text) for text in encoded}
    escaped = {write(text)[1:-1] for text in plain for write in (repr, json.dumps)}
    return frozenset(plain | encoded | escaped)


def _texts(value: Any) -> list[str]:
    """The string values in parsed JSON, without keys."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in _texts(part)]
