"""Resolve a dataset name to the data files of one split, and record why other files are ignored.

A folder may be a clone of a Hub dataset (its card may list the files of each configuration), a dataset written by
`save_to_disk`, or any folder of text or table files. Splits are inferred from folder and file names
(`train/a.jsonl`, `dev.tsv`, `data/test-00000-of-00002.parquet`), ignoring case, with the keywords that the `datasets`
library uses.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import importlib.util
import json
import lzma
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import IO, Any

import yaml

from ..errors import ScratchError

KINDS = {".txt": "text", ".text": "text", ".md": "text", ".csv": "csv", ".tsv": "csv", ".tab": "csv"}
KINDS |= {".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet", ".arrow": "arrow"}
TABLES = ("parquet", "arrow", "json", "csv")  # in order of preference, if two kinds have equally many files
TABLE_SUFFIXES = ".jsonl, .json, .csv, .tsv, .parquet or .arrow"
OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")
NO_TEXT = {".xlsx": "a spreadsheet", ".xls": "a spreadsheet", ".ods": "a spreadsheet", ".pdf": "a PDF"}
NO_TEXT |= {".docx": "a word processor's file", ".doc": "a word processor's file", ".db": "a database"}
NO_TEXT |= dict.fromkeys((".pkl", ".pickle", ".pt", ".pth", ".npy", ".npz", ".safetensors", ".bin"), "binary data")
METADATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"}
DOCUMENTATION = {"license", "licence", "copying", "notice", "readme", "changelog", "changes", "contributing", "authors"}
DOCUMENTATION |= {"citation", "requirements"}
LEADING_WORDS = {"license", "licence", "readme", "changelog"}  # also with something after them: LICENSE-MIT.txt
TEXTS_PER_TABLE = 3  # a folder with more texts than this for each table is a folder of texts
SEPARATORS = "-._ 0-9"  # characters that may surround a split keyword in a file name


@dataclass(frozen=True)
class Files:
    """The files of one split.

    Attributes:
        name: display name of the dataset.
        kind: "text", "csv", "json", "parquet" or "arrow"; the same for all files.
        paths: the files, in reading order.
        split: the split they belong to; None if no file name contains a split name.
        ignored: reason by path, for the files that are not read.
        validation_split: name of the validation split in the same folder, if there is one.
    """

    name: str
    kind: str
    paths: list[Path]
    split: str | None = None
    ignored: dict[str, str] = field(default_factory=dict)
    validation_split: str | None = None


def find_files(
    dataset: str, split: str = "train", config: str | None = None, tables_only: bool = False
) -> Files | None:
    """Find the local files of a dataset.

    Args:
        dataset: a file, a glob pattern such as `data/*.parquet`, or a folder.
        split: the split to read from a folder. If no file name contains a split name, all files are read.
        config: configuration name, for a folder whose dataset card lists configurations.
        tables_only: whether to reject plain text files.

    Returns:
        The files, or None if no such path exists and the name may be the id of a Hub dataset.

    Raises:
        ScratchError: the file or split does not exist, or no file has a supported format.
    """
    if not dataset.strip():
        raise ScratchError("the name of the dataset is empty: name a file, a folder or a Hub dataset")
    path = Path(dataset)
    if path.is_file() and config is not None:
        raise ScratchError(f"{dataset} is a file and has no configurations: leave out --dataset_config {config}")
    if path.is_dir():
        return _of_folder(path, split, config, tables_only)
    if path.is_file():
        return Files(path.name, _kind_of_file(path, tables_only), [path])
    if glob.has_magic(dataset):
        found = [p for p in map(Path, sorted(glob.glob(dataset, recursive=True))) if p.is_file()]
        if not found:
            raise ScratchError(f"no file matches {dataset}")
        asked = len(_hidden_parts(path))
        unfit = {str(p): "hidden" for p in found if len(_hidden_parts(p)) > asked}
        unfit |= {str(p): "empty" for p in found if p.stat().st_size == 0}
        kept, kind, ignored = _of_one_kind([p for p in found if str(p) not in unfit], tables_only)
        ignored |= unfit
        if not kept:
            raise ScratchError(f"{dataset} matches no file that can be read: {_reasons(ignored)}")
        return Files(dataset, kind, kept, ignored=ignored)
    local = path.is_absolute() or dataset.startswith(".") or dataset.count("/") > 1
    if local or kind_of(path) is not None or path.suffix.lower() in (*OPENERS, ".zst", *ARCHIVES):
        raise ScratchError(f"no such file or folder: {dataset}")
    return None


def _hidden_parts(path: PurePath) -> list[str]:
    """The parts of a path that no pattern matches unless it names them: hidden files and special folders."""
    return [part for part in path.parts if part.startswith((".", "__")) and set(part) != {"."}]


def kind_of(path: PurePath) -> str | None:
    """Return the kind of a file from its suffix, ignoring case and compression.

    None if the suffix is unknown, or if the file is a compressed Parquet or Arrow file, which is not supported."""
    kind = KINDS.get(plain_suffix(path))
    return None if kind in ("parquet", "arrow") and path.suffix.lower() in (*OPENERS, ".zst") else kind


def plain_suffix(path: PurePath) -> str:
    """Return the lower-case suffix, ignoring a compression suffix: ".csv" for `a.CSV.gz`."""
    suffix = path.suffix.lower()
    return PurePath(path.stem).suffix.lower() if suffix in (*OPENERS, ".zst") else suffix


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[IO[str]]:
    """Open a UTF-8 text file, plain or compressed (.gz, .bz2, .xz, .zst), for reading.

    Args:
        path: the file.
        newline: newline handling, as for the built-in `open`.

    Raises:
        ScratchError: the file is not UTF-8 or is corrupt; this is raised while reading.
    """
    try:
        with _opener(path)(path, "rt", encoding="utf-8-sig", newline=newline) as file:
            yield file
    except UnicodeDecodeError as error:
        raise ScratchError(
            f"{path} is not UTF-8 text: {error.reason} (byte {error.object[error.start]:#x}); convert it first, for "
            "example with iconv"
        ) from error
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise ScratchError(f"{path} can't be read: {error}") from error


def read_lines(path: Path) -> Iterator[str]:
    """Iterate over the lines of a text file, without line endings. Lines end with LF or CRLF only.

    Raises:
        ScratchError: the file is not UTF-8 or is corrupt.
    """
    with open_text(path, newline="\n") as file:
        for line in file:
            yield line.rstrip("\r\n")


def splits_by_name(paths: Iterable[PurePath]) -> dict[str, list[PurePath]]:
    """Group relative paths by split, following `datasets.data_files.get_data_patterns`.

    The first rule that matches is used: numbered shards in `data/`, folder names, file names. Empty if none matches."""
    from datasets.data_files import SPLIT_KEYWORDS

    paths = list(paths)
    shards: dict[str, list[PurePath]] = {}
    for path in paths:
        if match := re.fullmatch(r"data/(\w+(?:\.\w+)*)-\d{5}-of-\d{5}.*\..*", path.as_posix()):
            shards.setdefault(match[1], []).append(path)
    if shards:
        return shards
    words = {str(split): "|".join(keywords) for split, keywords in SPLIT_KEYWORDS.items()}
    for named in (lambda path: path.parts[:-1], lambda path: path.parts[-1:]):
        found: dict[str, list[PurePath]] = {}
        for split, keywords in words.items():
            pattern = re.compile(rf"(?:.*[{SEPARATORS}])?(?:{keywords})(?:[{SEPARATORS}].*)?", re.IGNORECASE)
            if mine := [path for path in paths if any(pattern.fullmatch(part) for part in named(path))]:
                found[split] = mine
        if found:
            return found
    return {}


def canonical_split(name: str) -> str:
    """Map a synonym such as "dev" or "val" to the standard split name; other names are returned unchanged."""
    from datasets.data_files import SPLIT_KEYWORDS

    return next((str(split) for split, words in SPLIT_KEYWORDS.items() if name.lower() in words), name)


def list_folder(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """List the files of a folder that may contain data, sorted, and the reason for each ignored file."""
    files, ignored = [], {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        reason = _why_ignored(path.relative_to(folder), path)
        if reason is None:
            files.append(path)
        else:
            ignored[str(path)] = reason
    return files, ignored


def _why_ignored(relative: PurePath, path: Path) -> str | None:
    if any(part.startswith(".") for part in relative.parts):
        return "hidden"
    if any(part.startswith("__") for part in relative.parts[:-1]):
        return "in a special folder"
    name, suffix = path.name.lower(), path.suffix.lower()
    if name in METADATA:
        return "metadata of a dataset"
    stem = PurePath(name).stem
    is_document = stem in DOCUMENTATION or name in DOCUMENTATION or re.split(r"[-_. ]", stem)[0] in LEADING_WORDS
    if is_document and kind_of(path) in ("text", None):
        return "documentation"
    if suffix in ARCHIVES:
        return f"a {suffix[1:]} archive: unpack it first"
    if suffix == ".zst" and _zstandard() is None:
        return "compressed with Zstandard: pip install zstandard, or unpack it first"
    return "empty" if path.stat().st_size == 0 else None


def _of_folder(folder: Path, split: str, config: str | None, tables_only: bool) -> Files:
    files, ignored = list_folder(folder)
    if (saved := _saved_to_disk(folder)) is not None:
        splits = saved
    elif (named := _named_by_card(folder, config, files)) is not None:
        splits = named
    else:
        readable = [path for path in files if kind_of(path) not in ((None, "text") if tables_only else (None,))]
        relative = splits_by_name([path.relative_to(folder) for path in readable])
        splits = {name: [folder / path for path in found] for name, found in relative.items()}
        if splits and "train" not in splits:  # files without a split name are training data
            taken = {path for found in splits.values() for path in found}
            splits |= {"train": rest} if (rest := [path for path in readable if path not in taken]) else {}
    renamed = {canonical_split(name): found for name, found in splits.items()}
    splits = renamed if len(renamed) == len(splits) else splits  # "dev" and "validation" may both be there
    wanted = split if split in splits else canonical_split(split)
    if splits and wanted not in splits:
        raise ScratchError(f"{folder} has no split {split!r}: it has {', '.join(map(repr, splits))}")
    for name, found in splits.items():
        ignored |= {str(path): f"split {name!r}" for path in found if name != wanted}
    chosen = splits.get(wanted, []) if splits else files
    kept, kind, others = _of_one_kind(chosen, tables_only)
    named_paths = {path for found in splits.values() for path in found}
    unnamed = "plain text, not a table" if tables_only else "names no split"
    ignored |= {
        str(p): _no_kind(p) or (unnamed if kind_of(p) == "text" else "names no split")
        for p in files
        if splits and p not in named_paths
    }
    ignored |= others
    if not kept:
        wanted_kinds = f"a {TABLE_SUFFIXES} file" if tables_only else f"a .txt, {TABLE_SUFFIXES} file"
        raise ScratchError(f"{folder} holds no {wanted_kinds} with text in it: {_reasons(ignored)}")
    validation = "validation" if "validation" in splits and wanted != "validation" else None
    ignored = {path: reason for path, reason in sorted(ignored.items()) if Path(path) not in kept}
    return Files(folder.resolve().name, kind, kept, wanted if splits else None, ignored, validation)


def _of_one_kind(paths: list[Path], tables_only: bool) -> tuple[list[Path], str, dict[str, str]]:
    """Return the files of one kind, that kind, and the reason for each ignored file. Tables are preferred, of the most
    frequent kind, unless there are many more texts."""
    ignored = {str(path): reason for path in paths if (reason := _no_kind(path))}
    counts = Counter(kind for path in paths if (kind := kind_of(path)) and not (tables_only and kind == "text"))
    if not counts:
        return [], "", ignored | {str(path): "plain text, not a table" for path in paths if kind_of(path) == "text"}
    tables = [name for name in TABLES if counts[name]]
    kind = max(tables, key=lambda name: counts[name], default="text")
    if counts["text"] > TEXTS_PER_TABLE * sum(counts[name] for name in tables):
        kind = "text"
    kept = [path for path in paths if kind_of(path) == kind]
    others = [path for path in paths if kind_of(path) not in (kind, None)]
    reasons = {str(p): "plain text, not a table" if kind_of(p) == "text" else f"not {kind}" for p in others}
    return kept, kind, ignored | reasons


def _no_kind(path: Path) -> str | None:
    if kind_of(path) is not None:
        return None
    if plain_suffix(path) in KINDS:
        return f"a compressed {KINDS[plain_suffix(path)]} file: unpack it first"
    return NO_TEXT.get(path.suffix.lower(), f"no known format ({path.suffix or 'no suffix'})")


def _kind_of_file(path: Path, tables_only: bool) -> str:
    """Return the kind of a file given by path; an unknown suffix is read as text."""
    suffix = path.suffix.lower()
    if path.stat().st_size == 0:
        raise ScratchError(f"{path} is empty: give a file with text in it")
    if suffix in ARCHIVES or path.name.lower().endswith(".tar.gz"):
        raise ScratchError(f"{path} is a {suffix[1:]} archive: unpack it, and name the folder")
    if suffix in NO_TEXT:
        raise ScratchError(f"{path} is {NO_TEXT[suffix]}: save its text as .txt, or its table as {TABLE_SUFFIXES}")
    kind = kind_of(path) or "text"
    if kind_of(path) is None and plain_suffix(path) in KINDS:
        raise ScratchError(f"{path} is a compressed {KINDS[plain_suffix(path)]} file: unpack it first")
    _opener(path)
    if tables_only and kind == "text":
        raise ScratchError(f"{path} is plain text, want a table: a {TABLE_SUFFIXES} file")
    return kind


def _opener(path: Path) -> Callable[..., Any]:
    suffix = path.suffix.lower()
    if suffix != ".zst":
        return OPENERS.get(suffix, open)
    if (zstandard := _zstandard()) is None:
        raise ScratchError(f"{path} is compressed with Zstandard: pip install zstandard, or unpack it first")
    return zstandard.open


def _zstandard() -> Any:
    """Return a module that reads Zstandard: `compression.zstd` (Python 3.14 or later) or `zstandard`; else None."""
    for name in ("compression.zstd", "zstandard"):
        try:
            if importlib.util.find_spec(name):
                return importlib.import_module(name)
        except ModuleNotFoundError:  # the parent package does not exist
            continue
    return None


def _saved_to_disk(folder: Path) -> dict[str, list[Path]] | None:
    """Return the Arrow files of each split of a folder written by `save_to_disk`; None for other folders."""
    try:
        if (folder / "dataset_dict.json").is_file():
            names = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
            parts = {str(name): folder / str(name) for name in names}
        elif (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
            parts = {"train": folder}
        else:
            return None
        states = {n: json.loads((part / "state.json").read_text(encoding="utf-8")) for n, part in parts.items()}
        named = {n: [str(entry["filename"]) for entry in state["_data_files"]] for n, state in states.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ScratchError(f"{folder} was not written whole by save_to_disk: {error}") from error
    if strange := [name for found in [*named.values(), parts] for name in found if PurePath(name).name != name]:
        raise ScratchError(f"{folder} names {strange[0]!r}, want the name of a file in the folder")
    return {name: [parts[name] / file for file in found] for name, found in named.items()}


def _named_by_card(folder: Path, config: str | None, files: list[Path]) -> dict[str, list[Path]] | None:
    """Return the files of each split that the dataset card (`README.md`) lists for a configuration; None if it lists
    none."""
    from datasets.data_files import resolve_pattern, sanitize_patterns
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCardData

    card = folder / "README.md"
    found = (
        re.match(r"---\s*\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
        if (card.is_file())
        else None
    )
    try:
        metadata = yaml.safe_load(found[1]) if found else None
        configs = MetadataConfigs.from_dataset_card_data(DatasetCardData(**metadata)) if metadata else {}
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ScratchError(f"{card}: its metadata can't be read: {' '.join(str(error).split())}") from error
    configs = {name: fields for name, fields in configs.items() if {"data_files", "data_dir"} & set(fields)}
    if not configs:
        if config is not None:
            raise ScratchError(f"{folder} names no configurations: leave out --dataset_config {config}")
        return None
    default = next((name for name, fields in configs.items() if fields.get("default")), None)
    chosen = config or default or ("default" if "default" in configs else None)
    if chosen is None and len(configs) == 1:
        chosen = next(iter(configs))
    if chosen not in configs:
        asked = f"no configuration {config!r}" if config else "several configurations"
        raise ScratchError(f"{folder} has {asked}: choose one of {', '.join(configs)} with --dataset_config")
    splits: dict[str, list[Path]] = {}
    base = (folder / str(configs[chosen].get("data_dir") or ".")).resolve()
    if "data_files" not in configs[chosen]:
        inside = [path for path in files if path.resolve().is_relative_to(base)]
        named = splits_by_name([path.resolve().relative_to(base) for path in inside if kind_of(path) is not None])
        places = {path.resolve(): path for path in inside}
        return {split: [places[base / path] for path in found] for split, found in named.items()} or {"train": inside}
    for split, patterns in sanitize_patterns(configs[chosen]["data_files"]).items():
        matched: set[Path] = set()
        for pattern in patterns:
            try:
                matched |= {Path(p) for p in resolve_pattern(pattern, glob.escape(str(base)))}
            except FileNotFoundError:
                raise ScratchError(
                    f"{card} names {pattern!r} for the split {split}, and there is no such file"
                ) from None
        splits[str(split)] = [path for path in files if path.resolve() in matched]
    return {split: found for split, found in splits.items() if found}


def _reasons(ignored: dict[str, str]) -> str:
    shown = [f"{Path(path).name} ({reason})" for path, reason in ignored.items()]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "") or "it is empty"
