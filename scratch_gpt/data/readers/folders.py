"""List the files of a folder or a glob pattern. Symbolic links that lead out of it are not followed."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from ...errors import ScratchError
from ...untrusted import check_regular, leads_into
from .files import ARCHIVES, kind_of

METADATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"}
DOCUMENTATION = {"license", "licence", "copying", "notice", "readme", "changelog", "changes", "contributing", "authors"}
DOCUMENTATION |= {"citation", "requirements"}
LEADING_WORDS = {"license", "licence", "readme", "changelog"}  # also followed by other words, as in LICENSE-MIT.txt
LINK_OUT = "a link that leads out of the folder"


def allowed_roots(folder: Path) -> list[Path]:
    """Return the resolved folders that links in a folder may lead to: the folder itself and, for a snapshot in the Hub
    cache, whose files are links, the `blobs` of the same repository."""
    root = folder.resolve()
    for place in (root, *root.parents):
        blobs = place.parent.parent / "blobs"
        if place.parent.name == "snapshots" and blobs.is_dir():  # if it is itself a link, nothing is inside it
            return [root, blobs]
    return [root]


def is_file_inside(path: Path, roots: Sequence[Path]) -> bool:
    """Whether a path is a regular file in one of `roots` after resolving links."""
    return path.is_file() and leads_into(path, roots)


def list_folder(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """List the files of a folder that may contain data, sorted, and the reason for each ignored file."""
    files: list[Path] = []
    ignored: dict[str, str] = {}
    roots = allowed_roots(folder)
    for path in sorted(_entries(folder, ignored)):
        reason = why_unsafe(path, roots) or _why_ignored(path.relative_to(folder), path)
        if reason is None:
            files.append(path)
        else:
            ignored[str(path)] = reason
    return files, ignored


def _entries(folder: Path, ignored: dict[str, str]) -> Iterator[Path]:
    """Iterate over all files below a folder, and links to folders; add unreadable folders to `ignored`."""

    def note(error: OSError) -> None:
        ignored[str(error.filename)] = f"can't be read ({error.strerror})"

    for place, folders, names in os.walk(folder, onerror=note):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        yield from (Path(place, name) for name in (*names, *links))


def why_unsafe(path: Path, roots: Sequence[Path]) -> str | None:
    """Return the reason why a path in a folder must not be opened; None if it may be.

    Args:
        path: the path; none of its parents may be a link that leads out of the folder.
        roots: folders that links may lead to (`allowed_roots`).
    """
    if path.is_symlink():
        if not path.exists():
            return "a broken link"
        if not leads_into(path, roots):
            return LINK_OUT
        if path.is_dir():
            return "a link to a folder inside the dataset"
    try:
        check_regular(path)
    except ScratchError:
        return "not a regular file"
    except OSError as error:
        return f"can't be read ({error.strerror})"
    return None


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
    return "empty" if path.stat().st_size == 0 else None


def find_matches(pattern: str) -> tuple[list[Path], dict[str, str]]:
    """Find the files that match a glob pattern, sorted, and the reason for each one ignored.

    Links that lead out of the folder before the first wildcard are not followed, and `**` follows no links to folders.
    A part such as `a[1]` before the first wildcard is taken literally if such a folder exists.
    """
    base, parts = _without_wildcards(Path(pattern))
    roots, places = allowed_roots(base), {base}
    ignored: dict[str, str] = {}
    for number, part in enumerate(parts):
        entered = {place for place in places if place.is_dir() and (place == base or leads_into(place, roots))}
        ignored |= {str(place): LINK_OUT for place in places - entered if place.is_symlink() and place.is_dir()}
        if part == "**":
            places = _below(entered, number == len(parts) - 1, roots, ignored)
        else:
            places = {place / name for place in entered for name in _names(place) if _matches_name(name, part)}
    named = len(_hidden_parts(Path(pattern)))
    found = []
    for path in sorted(path for path in places if path.is_symlink() or not path.is_dir()):
        reason = why_unsafe(path, roots)
        if reason is None and len(_hidden_parts(path)) > named:
            reason = "hidden"
        if reason is None and path.stat().st_size == 0:
            reason = "empty"
        if reason is None:
            found.append(path)
        else:
            ignored[str(path)] = reason
    return found, ignored


def _without_wildcards(pattern: Path) -> tuple[Path, list[str]]:
    """Split a pattern into the folder before its first wildcard, and the other parts."""
    base, parts = Path(pattern.anchor), list(pattern.parts[len(Path(pattern.anchor).parts) :])
    while len(parts) > 1:
        plain = re.sub(r"\[([*?[])\]", r"\1", parts[0])  # as `glob.escape` writes names
        if glob.escape(plain) == parts[0] or not glob.has_magic(parts[0]):
            base /= plain
        elif not set(parts[0]) & set("*?") and (base / parts[0]).is_dir():
            base /= parts[0]
        else:
            break
        parts.pop(0)
    return base, parts


def _below(folders: set[Path], with_files: bool, roots: Sequence[Path], ignored: dict[str, str]) -> set[Path]:
    """Return some folders and the folders below them at any depth; if `with_files`, the files below them instead.
    Hidden ones are omitted."""
    found = set()
    for folder in folders:
        for place, inner, names in os.walk(folder):
            links = [Path(place, name) for name in inner if os.path.islink(os.path.join(place, name))]
            ignored |= {str(link): LINK_OUT for link in links if not leads_into(link, roots)}
            inner[:] = [name for name in inner if not name.startswith(".")]
            found |= {Path(place, name) for name in names if name[0] != "."} if with_files else {Path(place)}
    return found


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _matches_name(name: str, part: str) -> bool:
    if not glob.has_magic(part):
        return name == part
    return fnmatchcase(name, part) and (part.startswith(".") or not name.startswith("."))


def _hidden_parts(path: PurePath) -> list[str]:
    """Return the parts of a path that wildcards do not match: hidden files and folders, and special folders."""
    return [part for part in path.parts if part.startswith((".", "__")) and set(part) != {"."}]


def resolve_inside(folder: Path, *names: str) -> tuple[PurePath, PurePath]:
    """Resolve a path or pattern that the metadata of a dataset contains, in the folder of the dataset.

    Args:
        folder: the folder.
        names: parts of the path, which are joined, such as the folder of a configuration and a file name.

    Returns:
        The longest existing folder that it starts with, with links resolved and relative to `folder`, and the rest,
        which may be a pattern.

    Raises:
        ScratchError: it is not in the folder.
    """
    root = folder.resolve()
    requested = PurePath(os.path.normpath(os.path.join(root, *names)))
    if not requested.is_relative_to(root) or any("://" in name or "\0" in name for name in names):
        raise ScratchError(f"{folder} refers to {names[-1]!r}, want a file in the folder")
    place, rest = root, list(requested.relative_to(root).parts)
    while rest and (place / rest[0]).is_dir():
        place = (place / rest.pop(0)).resolve()
        if not place.is_relative_to(root):
            raise ScratchError(f"{folder} refers to {names[-1]!r}, which is {LINK_OUT}")
    return place.relative_to(root), PurePath(*rest)


def matching_paths(paths: Iterable[PurePath], place: PurePath, pattern: PurePath) -> list[PurePath]:
    """Return the relative paths that match a pattern in a folder; if one is literally equal to the pattern, only that.

    Args:
        paths: relative paths.
        place: the folder.
        pattern: the pattern; `*` matches within a name, and `**` any number of folders.
    """
    inside = {path.relative_to(place): path for path in paths if path.is_relative_to(place)}
    if pattern in inside:
        return [inside[pattern]]
    parts = [part.replace("[^", "[!") for part in pattern.parts]
    return [path for relative, path in inside.items() if _matches(relative.parts, parts)]


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    places = _after_stars({0}, pattern)  # indices of the parts of the pattern that may match next
    for part in parts:
        stay = {place for place in places if pattern[place : place + 1] == ["**"]}
        steps = {place + 1 for place in places - stay if place < len(pattern) and fnmatchcase(part, pattern[place])}
        places = _after_stars(stay | steps, pattern)
    return len(pattern) in places


def _after_stars(places: set[int], pattern: Sequence[str]) -> set[int]:
    """Add the indices after each `**`, which may also match no folder."""
    found = set()
    for place in places:
        found.add(place)
        while pattern[place : place + 1] == ["**"]:
            place += 1
            found.add(place)
    return found
