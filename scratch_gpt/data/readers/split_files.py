"""Which files of a folder belong to which split: by the folder's dataset card, by `save_to_disk`, or by their names.

The card and the JSON files of a folder may be untrusted: they select among the files that `list_folder` found, and
can't open other files or URLs.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

from ...errors import ScratchError
from ...untrusted import MAX_YAML_BYTES, parse_yaml, read_bytes, read_json
from .files import kind_of
from .folders import LINK_OUT, allowed_roots, is_file_inside, matching_paths, resolve_inside

SEPARATORS = "-._ 0-9"  # characters that may surround a split keyword in a file name
MAX_PATTERNS = 1000  # with wildcards, in one configuration
FIELDS = ("config_name", "data_files", "data_dir", "default")  # fields of a configuration that are used


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
            if matches := [path for path in paths if any(pattern.fullmatch(part) for part in named(path))]:
                found[split] = matches
        if found:
            return found
    return {}


def canonical_split(name: str) -> str:
    """Map a synonym such as "dev" or "val" to the standard split name; other names are returned unchanged."""
    from datasets.data_files import SPLIT_KEYWORDS

    return next((str(split) for split, words in SPLIT_KEYWORDS.items() if name.lower() in words), name)


def saved_to_disk(folder: Path, files: list[Path], ignored: dict[str, str]) -> dict[str, list[Path]] | None:
    """Return the Arrow files of each split of a folder written by `save_to_disk`; None for other folders.

    Args:
        folder: the folder.
        files, ignored: what `list_folder` found in it.

    Raises:
        ScratchError: the folder is incomplete, or refers to files that are not in it.
    """
    roots = allowed_roots(folder)
    several = folder / "dataset_dict.json"
    try:
        if is_file_inside(several, roots):
            names = [str(name) for name in read_json(several)["splits"]]
        elif all(is_file_inside(folder / name, roots) for name in ("state.json", "dataset_info.json")):
            names = ["train"]
        else:
            return None
        _check_names(folder, names)
        parts = dict.fromkeys(names, folder)
        if is_file_inside(several, roots):
            parts = {name: folder.joinpath(*resolve_inside(folder, name)) for name in names}
        splits: dict[str, list[Path]] = {}
        for name, part in parts.items():
            state = part / "state.json"
            if not is_file_inside(state, roots):
                raise ScratchError(f"{state} is {ignored.get(str(state), 'missing')}")
            found = [str(entry["filename"]) for entry in read_json(state)["_data_files"]]
            _check_names(folder, found)
            splits[name] = [part / file for file in found]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ScratchError(f"{folder} was not written completely by save_to_disk: {error}") from error
    known = {*files, *map(Path, ignored)}
    if missing := [path for found in splits.values() for path in found if path not in known]:
        raise ScratchError(f"{folder} was not written completely by save_to_disk: no such file: {missing[0]}")
    usable = set(files)
    return {name: [path for path in found if path in usable] for name, found in splits.items()}


def _check_names(folder: Path, names: list[str]) -> None:
    if invalid := [name for name in names if PurePath(name).name != name or name in ("", "..")]:
        raise ScratchError(f"{folder} refers to {invalid[0]!r}, want the name of a file in the folder")


def named_by_card(
    folder: Path, config: str | None, files: list[Path], ignored: dict[str, str]
) -> dict[str, list[Path]] | None:
    """Return the files of each split that the dataset card (`README.md`) lists for a configuration; None if it lists
    none.

    Args:
        folder: the folder.
        config: name of the configuration; None takes the default one.
        files, ignored: what `list_folder` found in the folder.

    Raises:
        ScratchError: the metadata of the card can't be read, there is no such configuration, or it refers to files
            that are not in the folder.
    """
    configs = _configs_of(folder)
    if not configs:
        if config is not None:
            raise ScratchError(f"{folder} has no configurations: omit --dataset_config {config}")
        return None
    default = next((name for name, fields in configs.items() if fields.get("default")), None)
    chosen = config or default or ("default" if "default" in configs else None)
    if chosen is None and len(configs) == 1:
        chosen = next(iter(configs))
    if chosen not in configs:
        found = f"no configuration {config!r}" if config else "several configurations"
        raise ScratchError(f"{folder} has {found}: choose one of {', '.join(configs)} with --dataset_config")
    base = str(configs[chosen].get("data_dir") or ".")
    paths: dict[PurePath, Path] = {path.relative_to(folder): path for path in files}
    if "data_files" not in configs[chosen]:
        place = PurePath(*resolve_inside(folder, base))
        inside = [path for path in paths if path.is_relative_to(place)]
        named = splits_by_name([path.relative_to(place) for path in inside if kind_of(path) is not None])
        splits = {split: [paths[place / path] for path in found] for split, found in named.items()}
        return splits or {"train": [paths[path] for path in inside]}
    unusable: dict[PurePath, str] = {Path(path).relative_to(folder): reason for path, reason in ignored.items()}
    splits = {}
    for split, patterns in _patterns_of(folder, configs[chosen]["data_files"]).items():
        matched: set[PurePath] = set()
        for pattern in patterns:
            matches = matching_paths([*paths, *unusable], *resolve_inside(folder, base, pattern))
            if not matches:
                raise ScratchError(f"{folder} refers to {pattern!r} for the split {split}, but there is no such file")
            if all(unusable.get(path) == LINK_OUT for path in matches):
                raise ScratchError(f"{folder} refers to {pattern!r} for the split {split}, which is {LINK_OUT}")
            matched.update(matches)
        splits[split] = [path for relative, path in paths.items() if relative in matched]
    return {split: found for split, found in splits.items() if found}


def _configs_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the configurations that the card of a folder lists files or a folder of, by name."""
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCardData

    card = folder / "README.md"
    if not is_file_inside(card, allowed_roots(folder)):
        return {}
    found = re.match(r"---[^\S\n]*\n(.*?)\n---", read_bytes(card).decode("utf-8", errors="replace"), re.DOTALL)
    if found is None:
        return {}
    if len(found[1]) > MAX_YAML_BYTES:
        raise ScratchError(f"{card}: its metadata has {len(found[1]):,} characters, want at most {MAX_YAML_BYTES:,}")
    metadata = parse_yaml(found[1], str(card))
    listed = metadata.get("configs") if isinstance(metadata, dict) else None
    try:
        used = [{name: value for name, value in fields.items() if name in FIELDS} for fields in listed or []]
        configs = MetadataConfigs.from_dataset_card_data(DatasetCardData(configs=used))
    except (ValueError, TypeError, AttributeError) as error:
        raise ScratchError(f"{card}: its metadata can't be read: {' '.join(str(error).split())}") from error
    return {str(name): fields for name, fields in configs.items() if {"data_files", "data_dir"} & set(fields)}


def _patterns_of(folder: Path, data_files: Any) -> dict[str, list[str]]:
    """Return the names and patterns of the files of each split."""
    from datasets.data_files import sanitize_patterns

    try:
        patterns = {str(split): list(map(str, found)) for split, found in sanitize_patterns(data_files).items()}
    except (ValueError, TypeError) as error:
        raise ScratchError(f"{folder}: data_files of its card can't be read: {' '.join(str(error).split())}") from error
    wild = sum(glob.has_magic(pattern) for found in patterns.values() for pattern in found)
    if wild > MAX_PATTERNS:
        raise ScratchError(f"the card of {folder} has {wild:,} patterns, want at most {MAX_PATTERNS:,}")
    return patterns
