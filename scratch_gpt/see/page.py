"""Assemble the page: one HTML file with its code, style, weights, tokenizers and config, which loads nothing else.

What comes from a checkpoint is data in the page: JSON without a `<`, and base64. The page's own scripts and style are
allowed by their hashes in its Content-Security-Policy, so that no other can run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..atomic_files import replacing
from ..errors import ScratchError
from .film import Film, num_parameters, read_film
from .payload import ModelPayload, WeightType, model_payload
from .sources import excerpts
from .support import MAX_PARAMETERS

WEB = Path(__file__).parent / "web"
STYLES = ("style.css", "views.css")
ENTRY = 'import "#see/view/main.js";'
# A JSON text is safe inside a script element without `<`, which could end it; lone surrogates can't be encoded.
_ESCAPED = re.compile("[<\u2028\u2029\ud800-\udfff]")
_DOCUMENTATION = re.compile(r"^[ \t]*/\*\*.*?\*/$", re.DOTALL | re.MULTILINE)
_ESCAPED_IN_URL = re.compile('[%#"<\\\\\t\r\n]')
EXAMPLES = {
    "causal": "One day, Anna",
    "bigram": "One day, Anna",
    "seq2seq": "Gestern hat der Mann die Tür aufgemacht.",
    "masked": "One day, Anna {mask} an old lamp.",
    "classifier": "A wonderful film, and not a minute too long.",
    "encoder": "One day, Anna found an old lamp.",
}
MASKS = ("<mask>", "[MASK]")
FOOTER = "Everything here is computed in this page, from the weights that it contains. It sends and loads nothing."
SERVED_FOOTER = (
    "Everything here is computed by torch in scratch-gpt see --serve on this computer, which is all that the page asks."
)


def build_page(
    names: Sequence[str],
    dtype: WeightType = "float16",
    text: str | None = None,
    trust_remote_code: bool = False,
    title: str | None = None,
    film: str | None = None,
    report: Callable[[str], object] = print,
) -> str:
    """Return the page of one model, or of two that are compared.

    Args:
        names: folders or Hub ids; the first is shown, and the second compared with it.
        dtype: data type of the weights in the page, "float16" or "float32".
        text: what the page starts with; None: an example.
        trust_remote_code: whether to run code from the checkpoints.
        title: name of the first model in the page; None: that of `names`.
        film: directory of the run that trained the first model, whose film the page shows; None: no film.
        report: called with a line about what of the film is left out, or of a generation config is ignored.

    Raises:
        ScratchError: a model can't be opened or shown, the two can't be compared, or there is no film of the model.
    """
    models = [model_payload(name, dtype, trust_remote_code) for name in names]
    report_ignored(names, models, report)
    if title is not None:
        models[0].content["name"] = title
    for name, model in zip(names[1:], models[1:], strict=True):
        check_comparable(names[0], models[0], name, model)
    frames = None if film is None else film_of(film, names[0], models, trust_remote_code, report)
    return page_html(models, example(models[0].content) if text is None else text, frames)


def report_ignored(names: Sequence[str], models: Sequence[ModelPayload], report: Callable[[str], object]) -> None:
    """Report the settings of generation that a page ignores, a line for each model that has some."""
    for name, model in zip(names, models, strict=True):
        if ignored := (model.content["generation"] or {}).get("ignored"):
            settings = ", ".join(ignored)
            report(f"the page ignores {settings} in the generation config of {name}: it samples by its own controls")


def film_of(
    run: str, name: str, models: Sequence[ModelPayload], trust_remote_code: bool, report: Callable[[str], object]
) -> Film:
    """Read the film of a model.

    Args:
        run: directory of its run.
        name: folder or Hub id of the model.
        models: all models of the page, this one first.
        trust_remote_code: whether to run code from the checkpoints.
        report: called with a line if frames are left out.

    Raises:
        ScratchError: there is no film, or it is of another model.
    """
    model, *others = models
    if Path(run).resolve() != Path(name).resolve():
        trained = model_payload(run, trust_remote_code=trust_remote_code)
        for part in ("config", "tokenizers"):
            if trained.content[part] != model.content[part]:
                raise ScratchError(f"--film {run} is of a model with another {part.removesuffix('s')} than {name}")
    film = read_film(Path(run), model, sum(map(num_parameters, others)))
    shown, recorded = len(film.frames), film.content["recorded"]
    if shown < recorded:
        limit = f"{MAX_PARAMETERS:,} parameters in all"
        report(f"the page has {shown} of the {recorded} recorded steps: it has room for {limit}")
    return film


def check_comparable(name: str, model: ModelPayload, other_name: str, other: ModelPayload) -> None:
    """Check that two models can be compared: they are of the same kind and have the same tokenizer, but for tokens
    that one of them adds at the end, such as those of a conversation.

    Args:
        name: of the first model.
        model: its payload.
        other_name: of the second model.
        other: its payload.

    Raises:
        ScratchError: they can't.
    """
    kinds = model.content["kind"], other.content["kind"]
    if kinds[0] != kinds[1]:
        raise ScratchError(f"--against {other_name} is a {kinds[1]} model and {name} a {kinds[0]} model: want the same")
    for part in ("source", "target"):
        tokenizers = [each.content["tokenizers"][part] for each in (model, other)]
        if None in tokenizers:
            same = tokenizers[0] is tokenizers[1]
        else:
            size = min(map(num_tokens, tokenizers))
            first, second = (shortened(tokenizer, size) for tokenizer in tokenizers)
            same = first == second
        if not same:
            raise ScratchError(
                f"--against {other_name} has another tokenizer than {name}: want the same, token by token; only added "
                "tokens at the end of one of them may differ"
            )


def num_tokens(tokenizer: dict[str, Any]) -> int:
    """Number of tokens of a tokenizer of the page, with added ones."""
    return max([len(tokenizer["model"]["vocab"]), *(token["id"] + 1 for token in tokenizer["added"])])


def shortened(tokenizer: dict[str, Any], size: int) -> dict[str, Any]:
    """A tokenizer of the page without the added tokens from an id on."""
    added = [token for token in tokenizer["added"] if token["id"] < size]
    special = {token: number for token, number in tokenizer["special"].items() if number < size}
    return {**tokenizer, "added": added, "special": special}


def example(content: dict[str, Any]) -> str:
    """A text that a page of this kind of model can start with."""
    special = content["tokenizers"]["source"]["special"]
    mask = next((mask for mask in MASKS if mask in special), MASKS[0])
    return EXAMPLES[content["kind"]].replace("{mask}", mask)


def web_modules(folder: Path = WEB) -> dict[str, str]:
    """JavaScript modules of the page by the name that they are imported by, such as `#see/view/main.js`."""
    paths = sorted(folder.rglob("*.js"))
    return {f"#see/{path.relative_to(folder).as_posix()}": path.read_text(encoding="utf-8") for path in paths}


def page_html(models: Sequence[ModelPayload], text: str = "", film: Film | None = None, served: bool = False) -> str:
    """Return the page.

    Args:
        models: the models; the first is shown, others are compared with it.
        text: what the page starts with.
        film: the weights of the first model at some steps of its training.
        served: whether the page asks the server that it comes from, see serve.py; it then has no weights.

    Raises:
        ScratchError: a number of the payload is not finite.
    """
    payload = {
        "format": 1,
        "models": [model.content for model in models],
        "excerpts": excerpts(),
        "film": None if film is None else film.content,
        "text": text,
    }
    weights = {f"weights-{index}": model.weights for index, model in enumerate(models) if not served}
    weights |= {f"film-{index}": frame for index, frame in enumerate(film.frames if film else [])}
    imports = {name: module_url(name, code) for name, code in web_modules().items()}
    import_map = json.dumps({"imports": imports}, ensure_ascii=False)
    style = "".join((WEB / name).read_text(encoding="utf-8") for name in STYLES)
    parts = {
        "policy": content_security_policy([import_map, ENTRY], [style], served),
        "title": html.escape(f"{without_surrogates(models[0].content['name'])} in the browser"),
        "style": style,
        "import_map": import_map,
        "payload": script_json(payload),
        "weights": "\n".join(weights_element(*item) for item in weights.items()),
        "footer": SERVED_FOOTER if served else FOOTER,
        "entry": ENTRY,
    }
    template = (WEB / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)  # one pass: no value is searched again


def check_output(path: Path) -> None:
    """Check where a page is to be written, before anything is computed.

    Raises:
        ScratchError: the name has another ending than `.html`, its folder does not exist, or it is a folder.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise ScratchError(f"--output {path} does not end in .html, by which browsers know a page: rename it")
    if not path.parent.is_dir():
        raise ScratchError(f"no such folder: {path.parent}")
    if path.is_dir():
        raise ScratchError(f"{path} is a folder, want a file")


def write_page(path: Path, page: str) -> int:
    """Write a page and return its size in bytes; the file is replaced when it is complete.

    Raises:
        ScratchError: the file can't be written.
    """
    content = page.encode("utf-8")
    try:
        with replacing(path) as staged:
            staged.write_bytes(content)
    except OSError as error:
        raise ScratchError(f"{path} can't be written: {error.strerror or error}") from error
    return len(content)


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


def without_surrogates(text: str) -> str:
    """A text with `?` for what UTF-8 can't encode: lone surrogates, as in the name of a file that is not UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def weights_element(name: str, weights: bytes) -> str:
    """The element of the weights of a model or of a frame of its film, in base64; `name` is its id."""
    return f'<script type="text/plain" id="{name}">{base64.b64encode(weights).decode("ascii")}</script>'


def module_url(name: str, code: str) -> str:
    """A `data:` URL of a module; stack traces show its name. Only characters that are not allowed in such a URL or in a
    script element are escaped: base64 would take a third more. The documentation of functions is left out, a quarter of
    the code; its lines stay, so that line numbers are those of the file."""
    code = _DOCUMENTATION.sub(lambda match: "\n" * match[0].count("\n"), code)
    named = f"{code}\n//# sourceURL={name.removeprefix('#')}\n"
    return "data:text/javascript," + _ESCAPED_IN_URL.sub(lambda match: f"%{ord(match[0]):02X}", named)


def content_security_policy(scripts: list[str], styles: list[str], served: bool = False) -> str:
    """The policy of a page: it may load nothing, and only these inline scripts and styles, and modules of the import
    map, have an effect. Markup can't be made from strings (trusted types). A served page may ask its own server."""
    directives = {
        "default-src": "'none'",
        "script-src": " ".join([*map(_hash_source, scripts), "data:"]),
        "style-src": " ".join(map(_hash_source, styles)),
        "img-src": "data:",
        **({"connect-src": "'self'"} if served else {}),
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in directives.items())


def _hash_source(text: str) -> str:
    """A source of a policy that allows this inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"
