"""Say in plain words why a model, tokenizer or dataset of some name is not found: neither here nor on the Hub."""

from __future__ import annotations

import os
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

MAX_SUGGESTIONS, MAX_LISTED = 3, 8
UNREACHABLE = ("LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "ConnectError", "Timeout")
ABSENT = ("RepositoryNotFoundError", "DatasetNotFoundError")


def looks_like_path(name: str) -> bool:
    """Whether a name can't be the id of a repository on the Hub (`NAME` or `USER/NAME`), only a path."""
    return (
        os.path.isabs(name) or name.startswith((".", "~")) or name.count("/") > 1 or "\\" in name or name.endswith("/")
    )


def why_no_path(name: str) -> str | None:
    """Reason why a name that is a path is not found, with similar names: one that can't be an id, or FOLDER/NAME if the
    folder exists here, and no such model was downloaded from the Hub; None if it exists or can be an id."""
    from huggingface_hub import try_to_load_from_cache

    if Path(name).exists():
        return None
    if looks_like_path(name):
        return f"there is no folder of that name here{suggestion(name)}"
    parent = Path(name).parent  # of FOLDER/NAME, which can be an id too
    if not parent.name or not parent.is_dir() or try_to_load_from_cache(name, "config.json") is not None:
        return None
    names = sorted(each.name for each in parent.iterdir() if each.is_dir())
    others = f"{', '.join(names[:MAX_LISTED])}{', …' if len(names) > MAX_LISTED else ''}" or "no folders"
    return f"no such folder: {name}{suggestion(name)}; {parent} has: {others}"


def why_not_found(name: str, kind: str, error: BaseException) -> str | None:
    """Reason why something is neither here nor on the Hub, given the error of opening it.

    Args:
        name: folder, or id on the Hub.
        kind: what was to be opened, in one word: "model", "tokenizer" or "dataset".
        error: the error of transformers, datasets or huggingface_hub.

    Returns:
        The reason, or None if it was found, so that the error itself is the reason.
    """
    if Path(name).exists():
        return None
    here = f"there is no {'file or ' if kind == 'dataset' else ''}folder of that name here{suggestion(name)}"
    chain = list(_chain(error))
    names, message = {type(each).__name__ for each in chain}, " ".join(map(str, chain))
    if looks_like_path(name) or "HFValidationError" in names:
        return here
    if "GatedRepoError" in names:
        return f"{here}, and the {kind} on the Hub is gated: accept its terms there, and log in with 'hf auth login'"
    if any(each in names for each in ABSENT):
        return f"{here}, and no such {kind} on the Hub (a private one needs 'hf auth login')"
    if any(each.endswith(UNREACHABLE) for each in names) or any(each in message for each in UNREACHABLE):
        return f"{here}, and {_why_unreachable(kind)}"
    return None


def _why_unreachable(kind: str) -> str:
    """Why it is unknown whether the Hub has something of this kind."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return f"the Hub is not asked, because HF_HUB_OFFLINE is set; its cache here has no such {kind}"
    return f"the Hub can't be reached, so it is unknown whether it has such a {kind}"


def suggestion(name: str) -> str:
    """Similar names in the folder where a path would be, in brackets after a space; "" if there are none."""
    path = Path(name).expanduser()
    try:
        names = sorted(each.name for each in path.parent.iterdir())
    except OSError:
        return f" ({path.parent} does not exist)" if looks_like_path(name) and not path.parent.exists() else ""
    similar = get_close_matches(path.name, names, MAX_SUGGESTIONS)
    return f" (did you mean {' or '.join(str(path.parent / each) for each in similar)}?)" if similar else ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those that caused it."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
