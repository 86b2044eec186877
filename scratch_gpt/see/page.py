"""Assemble the page: one HTML file with its code, style, weights, tokenizers and config, which loads nothing else.

What comes from a checkpoint is data in the page: JSON without a `<`, and base64. Its script and style are allowed by
their hashes in the Content-Security-Policy, so that nothing else can run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from ..atomic_files import replacing
from ..errors import ScratchError

WEB = Path(__file__).parent / "web"
STYLES = ("style.css", "views.css")
ENTRY = 'import "#see/view/main.js";'
# JSON is valid inside a script element without these: `<` could end it, and the others can't be or aren't text.
_ESCAPED = re.compile("[<\u2028\u2029\ud800-\udfff]")


class ModelPayload(NamedTuple):
    """A model of a page: its part of the payload, and the bytes of its weights."""

    content: dict[str, Any]
    weights: bytes


def web_modules(folder: Path = WEB) -> dict[str, str]:
    """JavaScript modules of the page by the name that they are imported by, such as `#see/view/main.js`."""
    paths = sorted(folder.rglob("*.js"))
    return {f"#see/{path.relative_to(folder).as_posix()}": path.read_text(encoding="utf-8") for path in paths}


def page_html(
    models: list[ModelPayload], excerpts: dict[str, Any], text: str = "", modules: dict[str, str] | None = None
) -> str:
    """Return the page.

    Args:
        models: the models; the first is shown, others are compared with it.
        excerpts: lines of this package's source by concept (see `sources.excerpts`).
        text: what the page starts with.
        modules: its JavaScript; None: that of this package.

    Raises:
        ScratchError: a number of the payload is not finite.
    """
    payload = {
        "format": 1,
        "models": [model.content for model in models],
        "excerpts": excerpts,
        "film": None,
        "text": text,
    }
    urls = {name: data_url("text/javascript", code) for name, code in (modules or web_modules()).items()}
    import_map = json.dumps({"imports": urls})
    style = "".join((WEB / name).read_text(encoding="utf-8") for name in STYLES)
    parts = {
        "policy": content_security_policy([import_map, ENTRY], [style]),
        "title": html.escape(f"{models[0].content['name']} in the browser"),
        "style": style,
        "import_map": import_map,
        "payload": script_json(payload),
        "weights": "\n".join(weights_element(index, model.weights) for index, model in enumerate(models)),
        "entry": ENTRY,
    }
    template = (WEB / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)  # one pass: no value is searched again


def write_page(path: Path, page: str) -> None:
    """Write a page; the file is replaced when it is complete.

    Raises:
        ScratchError: the file can't be written.
    """
    try:
        with replacing(path) as staged:
            staged.write_bytes(page.encode("utf-8"))
    except OSError as error:
        raise ScratchError(f"{path} can't be written: {error.strerror or error}") from error


def script_json(content: Any) -> str:
    """JSON for a script element: it has no `<`, and no character that UTF-8 or HTML would change.

    Raises:
        ScratchError: a number is not finite, which JSON can't express.
    """
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise ScratchError("the model can't be shown: a number of its config or tokenizer is not finite") from error
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def weights_element(index: int, weights: bytes) -> str:
    """The element of the weights of a model, in base64."""
    return f'<script type="text/plain" id="weights-{index}">{base64.b64encode(weights).decode("ascii")}</script>'


def data_url(kind: str, text: str) -> str:
    """A `data:` URL of a text."""
    return f"data:{kind};base64,{base64.b64encode(text.encode('utf-8')).decode('ascii')}"


def content_security_policy(scripts: list[str], styles: list[str]) -> str:
    """The policy of a page: it may load nothing, and only these inline scripts and styles, and modules of the import
    map, have an effect. Markup can't be made from strings (trusted types)."""
    directives = {
        "default-src": "'none'",
        "script-src": " ".join([*map(_hash_source, scripts), "data:"]),
        "style-src": " ".join(map(_hash_source, styles)),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in directives.items())


def _hash_source(text: str) -> str:
    """A source of a policy that allows this inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"
