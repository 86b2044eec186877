"""Resolve a dataset name to the data files of one split, and record why other files are ignored.

A folder may be a clone of a Hub dataset (its card may list the files of each configuration), a dataset written by
`save_to_disk`, or any folder of text or table files. Splits are inferred from folder and file names
(`train/a.jsonl`, `dev.tsv`, `data/test-00000-of-00002.parquet`), ignoring case, with the keywords that the `datasets`
library uses.
"""

from __future__ import annotations

import glob
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import ScratchError
from ...not_found import looks_like_path, suggestion
from ...untrusted import check_regular
from .compressed import SUFFIXES
from .files import ARCHIVES, TABLE_SUFFIXES, kind_of, kind_of_named_file, why_unsupported
from .folders import find_matches, list_folder
from .split_files import canonical_split, named_by_card, saved_to_disk, splits_by_name

TABLES = ("parquet", "arrow", "json", "csv")  # in order of preference, if two kinds have equally many files
TEXTS_PER_TABLE = 3  # a folder with more texts than this for each table is a folder of texts


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

    Symbolic links that lead out of a folder, or out of the folder that a pattern starts with, are not followed. If
    `dataset` itself is a link, it is followed.

    Args:
        dataset: a file, a glob pattern such as `data/*.parquet`, or a folder. An existing file or
            folder of this name has priority, even if the name contains wildcards.
        split: the split to read from a folder. If no file name contains a split name, all files are read.
        config: configuration name, for a folder whose dataset card lists configurations.
        tables_only: whether to reject plain text files.

    Returns:
        The files, or None if no such path exists and the name may be the id of a Hub dataset.

    Raises:
        ScratchError: the file or split does not exist, or no file has a supported format.
    """
    if not dataset.strip():
        raise ScratchError("the name of the dataset is empty: want a file, a folder or a Hub dataset")
    path = Path(dataset)
    if path.is_file() and config is not None:
        raise ScratchError(f"{dataset} is a file and has no configurations: omit --dataset_config {config}")
    if path.is_dir():
        return _of_folder(path, split, config, tables_only)
    if path.exists():
        check_regular(path)
        return Files(path.name, kind_of_named_file(path, tables_only), [path])
    if glob.has_magic(dataset):
        return _of_pattern(dataset, tables_only)
    is_file = kind_of(path) is not None or path.suffix.lower() in (*SUFFIXES, *ARCHIVES)
    if is_file or looks_like_path(dataset):
        raise ScratchError(f"no such file or folder: {dataset}{suggestion(dataset)}")
    return None


def _of_pattern(pattern: str, tables_only: bool) -> Files:
    found, unfit = find_matches(pattern)
    if not found and not unfit:
        raise ScratchError(f"no file matches {pattern}")
    kept, kind, ignored = _of_one_kind(found, tables_only)
    ignored |= unfit
    if not kept:
        raise ScratchError(f"{pattern} matches no file that can be read: {_reasons(ignored)}")
    return Files(pattern, kind, kept, ignored=ignored)


def _of_folder(folder: Path, split: str, config: str | None, tables_only: bool) -> Files:
    files, ignored = list_folder(folder)
    if (saved := saved_to_disk(folder, files, ignored)) is not None:
        splits = saved
    elif (named := named_by_card(folder, config, files, ignored)) is not None:
        splits = named
    else:
        readable = [path for path in files if kind_of(path) not in ((None, "text") if tables_only else (None,))]
        relative = splits_by_name([path.relative_to(folder) for path in readable])
        splits = {name: [folder / path for path in found] for name, found in relative.items()}
        if splits and "train" not in splits:  # files without a split name are training data
            taken = {path for found in splits.values() for path in found}
            splits |= {"train": rest} if (rest := [path for path in readable if path not in taken]) else {}
    renamed = {canonical_split(name): found for name, found in splits.items()}
    splits = renamed if len(renamed) == len(splits) else splits  # "dev" and "validation" may both exist
    selected = split if split in splits else canonical_split(split)
    if splits and selected not in splits:
        raise ScratchError(f"{folder} has no split {split!r}: it has {', '.join(map(repr, splits))}")
    for name, found in splits.items():
        ignored |= {str(path): f"split {name!r}" for path in found if name != selected}
    chosen = splits.get(selected, []) if splits else files
    kept, kind, others = _of_one_kind(chosen, tables_only)
    named_paths = {path for found in splits.values() for path in found}
    unnamed = "plain text, not a table" if tables_only else "has no split name"
    ignored |= {
        str(p): why_unsupported(p) or (unnamed if kind_of(p) == "text" else "has no split name")
        for p in files
        if splits and p not in named_paths
    }
    ignored |= others
    if not kept:
        wanted_kinds = f"a {TABLE_SUFFIXES} file" if tables_only else f"a .txt, {TABLE_SUFFIXES} file"
        raise ScratchError(f"{folder} has no {wanted_kinds} with text: {_reasons(ignored)}")
    validation = "validation" if "validation" in splits and selected != "validation" else None
    ignored = {path: reason for path, reason in sorted(ignored.items()) if Path(path) not in kept}
    return Files(folder.resolve().name, kind, kept, selected if splits else None, ignored, validation)


def _of_one_kind(paths: list[Path], tables_only: bool) -> tuple[list[Path], str, dict[str, str]]:
    """Return the files of one kind, that kind, and the reason for each ignored file. Tables are preferred, of the most
    frequent kind, unless there are many more texts."""
    ignored = {str(path): reason for path in paths if (reason := why_unsupported(path))}
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


def _reasons(ignored: dict[str, str]) -> str:
    shown = [f"{Path(path).name} ({reason})" for path, reason in ignored.items()]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "") or "it is empty"
