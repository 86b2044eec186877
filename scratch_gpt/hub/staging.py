"""Staging of a push: the files of a model directory to upload, and the code in them that is not from this package.

A push verifies and uploads the same staged copy, which contains nothing else of the directory, such as
`custom_generate/generate.py` or a pickle.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..errors import ScratchError
from ..untrusted import read_bytes, read_json
from .card_usage import name_model
from .directory_checks import INDEX, check_files
from .model_directory import TARGET_TOKENIZER

MODELS = Path(__file__).parents[1] / "models"
WEIGHTS = "model.safetensors"
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
DOCUMENTS = ("README.md", "loss.png")
PAGE = "see.html"  # a push makes it itself, since one in the directory may be of other weights
SETTINGS = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    "chat_template.jinja",
)
SECOND_TOKENIZER = f"{TARGET_TOKENIZER}/tokenizer*.json"


def files_to_upload(folder: Path) -> list[Path]:
    """List the files of a model directory that a push uploads, by name.

    These are weights as safetensors, configs, tokenizers, code, card and page; not checkpoints, logs or anything else.

    Raises:
        ScratchError: the folder is not a model directory, or fails `check_files`, such as by links out of it.
    """
    try:
        if not (folder / "config.json").is_file():
            raise ScratchError("want config.json and model.safetensors in it")
        check_files(folder)
        found = {folder / name for name in (*DOCUMENTS, PAGE, *SETTINGS) if (folder / name).is_file()}
        found |= {path for name in ("*.py", SECOND_TOKENIZER) for path in folder.glob(name) if path.is_file()}
        return sorted(found | {folder / name for name in _weights(folder)})
    except (ScratchError, OSError) as error:
        raise ScratchError(f"{folder} is not a model directory that can be pushed: {error}") from error


def _weights(folder: Path) -> list[str]:
    """The weight files that transformers would load: `model.safetensors`, or else an index and its shards."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if not (folder / INDEX).is_file():
        raise ScratchError("want model.safetensors in it, or an index and its shards")
    shards = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
    for shard in shards:
        if not SHARD.fullmatch(shard):
            raise ScratchError(f"{INDEX} names {shard!r}, want names such as model-00001-of-00002.safetensors")
        if not (folder / shard).is_file():
            raise ScratchError(f"{INDEX} names {shard}, which is not there")
    return [INDEX, *shards]


def is_replaced(name: str) -> bool:
    """Whether a push deletes a file of this name from the repository if it does not upload one.

    This holds for all files that a push uploads, except card and plot, which do not affect how a later model runs.
    """
    return (
        name in (WEIGHTS, INDEX, PAGE, *SETTINGS)
        or SHARD.fullmatch(name) is not None
        or ("/" not in name and name.endswith(".py") and (MODELS / name).is_file())
        or (name.count("/") == 1 and fnmatchcase(name, SECOND_TOKENIZER))
    )


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder of the same name with exactly the files that a push of `folder` uploads, without a page.

    Weights are hard links if the file system supports them; other files are copied. Errors raised in the block refer to
    `folder`.

    Raises:
        ScratchError: as `files_to_upload`.
    """
    files = [path for path in files_to_upload(folder) if path != folder / PAGE]
    source = folder.resolve()
    parent = source.parent if os.access(source.parent, os.W_OK) else None  # on the same file system
    with tempfile.TemporaryDirectory(prefix=".push-", dir=parent) as temporary:
        copy = Path(temporary) / (source.name or "model")
        for path in files:
            target = copy / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(path.resolve(), target)
        try:
            yield copy
        except ScratchError as error:
            raise type(error)(str(error).replace(str(copy), str(folder))) from error


def name_in_card(folder: Path, name: str, native: bool) -> None:
    """Name the model in the examples of a staged card; arguments as of `name_model`."""
    card = folder / DOCUMENTS[0]
    if card.is_file():
        text = read_bytes(card).decode("utf-8", errors="surrogateescape")
        card.write_bytes(name_model(text, name, native).encode("utf-8", errors="surrogateescape"))


def _link_or_copy(path: Path, target: Path) -> None:
    if path.suffix == ".safetensors" or target.suffix == ".safetensors":
        try:
            os.link(path, target)
            return
        except OSError:  # another file system, or one without links
            pass
    shutil.copyfile(path, target)


def foreign_code(folder: Path) -> list[str]:
    """List the code that opening a staged model directory may run and that is not identical to this package's: Python
    files, and references in its configs to code in other folders or repositories.

    Raises:
        ScratchError: a config can't be read.
    """
    ours = {path.name: path.read_bytes() for path in MODELS.glob("*.py")}
    files = {path.name for path in folder.glob("*.py") if ours.get(path.name) != read_bytes(path)}
    configs = [folder / name for name in SETTINGS if name.endswith(".json") and name != "tokenizer.json"]
    named: set[str] = set()
    for path in (*configs, folder / TARGET_TOKENIZER / "tokenizer_config.json"):
        if path.is_file():
            named |= _references(read_json(path))
    return sorted(files | {name for name in named if f"{name.rpartition('.')[0]}.py" not in ours})


def _references(settings: Any) -> set[str]:
    """Code references in a config at any depth: all of `auto_map`, and the classes of `custom_pipelines`."""
    parts = settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else ()
    found = set().union(*map(_references, parts)) if parts else set()
    if isinstance(settings, dict):
        found |= set(_texts(settings.get("auto_map")))
        pipelines = settings.get("custom_pipelines")
        for pipeline in pipelines.values() if isinstance(pipelines, dict) else ():
            found |= set(_texts(pipeline.get("impl") if isinstance(pipeline, dict) else pipeline))
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value:
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(part)
