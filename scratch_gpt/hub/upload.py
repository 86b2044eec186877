"""Send a model directory to the Hub in one commit, repeated for a busy Hub; what it deletes there is listed before."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session, set_client_factory, validate_repo_id
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from ..errors import HubError, ScratchError
from ..redaction import redact
from ..terminal import printable
from .staging import files_to_upload, is_replaced

MAIN, NATIVE_REVISION = "main", "native"
ATTEMPTS = 3  # of a push as a whole; single requests are repeated by huggingface_hub too, where it can
# What a Hub answers that is only busy, or whose branch somebody else has moved just now (412).
PASSING = {408, 412, 429, 500, 502, 503, 504}
LONGEST_PAUSE = 300  # seconds; the Hub counts requests over five minutes
Answer = TypeVar("Answer")


def check_repository_name(name: str) -> None:
    """Raise ScratchError where `name` is no 'model' or 'user/model' of the Hub."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        said = "letters, digits, '-', '_' and '.', no other sign, and at most 96 of them"
        raise ScratchError(f"{name!r} is no name of a repository, want 'user/model': {said}") from error


@dataclass(frozen=True)
class Changes:
    """What a push does to a revision beside writing its own files.

    Args:
        parent: the commit that it follows; None where the revision is not there yet.
        deletions: names of files that it deletes: those of an earlier push that it does not write anew.
    """

    parent: str | None
    deletions: tuple[str, ...]


def plan_push(folder: Path, name: str, *, revision: str = MAIN, timeout: float = 120.0) -> Changes:
    """Ask the Hub what a push would delete; nothing is changed there.

    Args:
        folder: a model directory.
        name: of the repository; it need not exist.
        revision: a branch; it need not exist.
        timeout: as of `push_directory`.

    Raises:
        HubError: the Hub stayed out of reach or busy.
        ScratchError: the Hub refuses, or this is no name of a repository.
    """
    files = _names(folder)

    def ask() -> Changes:
        api = HfApi()
        full_name = name if "/" in name else f"{api.whoami()['name']}/{name}"
        try:
            return _changes(api, full_name, revision, files)
        except RevisionNotFoundError:  # it will begin where the repository did
            return replace(_changes(api, full_name, _first_commit(api, full_name), files), parent=None)
        except RepositoryNotFoundError:
            return Changes(None, ())

    check_repository_name(name)
    _prepare_client(timeout)
    return _patiently(ask, name, "nothing was sent: push again later")


def push_directory(
    folder: Path,
    name: str,
    *,
    private: bool = False,
    revision: str = MAIN,
    message: str = "Upload model",
    timeout: float = 120.0,
    agreed: Changes | None = None,
) -> str:
    """Send the allowed files of a model directory to the Hub in one commit, which also removes what is stale there.

    Where the Hub is out of reach or busy, the whole is tried again; a push that has arrived already is none then, and
    one that arrives late is refused, since each commit names the one that it follows.

    Args:
        folder: a model directory.
        name: of the repository, which is made where there is none.
        private: whether a repository that is made is private.
        revision: a branch, which is made where there is none.
        message: title of the commit.
        timeout: seconds to wait for a Hub that neither takes nor sends a byte, for as long as this process lives;
            huggingface_hub itself would wait for ever.
        agreed: what `plan_push` has found: a repository that has changed since is left as it is.

    Returns:
        The address of the commit.

    Raises:
        HubError: the Hub stayed out of reach or busy. A commit is all or nothing, so that nothing is half-published.
        ScratchError: the Hub refuses, sends uploads on to another host, or has other files by now than were agreed on.
    """

    def send() -> str:
        return _push_once(folder, name, private, revision, message, agreed)

    check_repository_name(name)
    _prepare_client(timeout)
    left = f"{folder} is as it was, and revision {revision!r} of {name} has all of it or nothing: push again later"
    return redact(_patiently(send, name, left))


def _push_once(folder: Path, name: str, private: bool, revision: str, message: str, agreed: Changes | None) -> str:
    api = HfApi()
    full_name = api.create_repo(name, private=private, exist_ok=True).repo_id
    if revision != MAIN:
        # Begun at the first commit, where a repository is empty: main's files would show another model until ours came.
        api.create_branch(full_name, branch=revision, revision=_first_commit(api, full_name), exist_ok=True)
    files = _names(folder)
    now = _changes(api, full_name, revision, files)
    if agreed and not _is_as_agreed(api, full_name, revision, message, now, agreed):
        raise ScratchError(
            f"revision {revision!r} of {name} has changed since its files were listed, and was left as it is: push "
            "again to see what there is to delete now"
        )
    operations: list[Any] = [CommitOperationAdd(path, folder / path) for path in files]
    operations += map(CommitOperationDelete, now.deletions)
    info = api.create_commit(full_name, operations, commit_message=message, revision=revision, parent_commit=now.parent)
    return info.commit_url


def _names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in files_to_upload(folder)]


def _first_commit(api: HfApi, name: str) -> str:
    return api.list_repo_commits(name)[-1].commit_id


def _changes(api: HfApi, name: str, revision: str, files: Collection[str]) -> Changes:
    parent = api.model_info(name, revision=revision).sha
    there = api.list_repo_files(name, revision=parent)
    return Changes(parent, tuple(sorted(path for path in there if is_replaced(path) and path not in files)))


def _is_as_agreed(api: HfApi, name: str, revision: str, message: str, now: Changes, agreed: Changes) -> bool:
    """Whether nothing but what was listed would be deleted, and nobody has committed in between. An earlier attempt of
    this push may have, whose answer was lost."""
    if not set(now.deletions) <= set(agreed.deletions):
        return False
    if agreed.parent in (None, now.parent):
        return True
    commits = api.list_repo_commits(name, revision=revision)[:2]
    return [commits[0].title, commits[-1].commit_id] == [message, agreed.parent]


def _prepare_client(timeout: float) -> None:
    """Have huggingface_hub's client wait for `timeout` seconds at most, and send nothing on to other hosts."""
    client = get_session()
    hooks = client.event_hooks
    if _check_answer in hooks["response"] and client.timeout == type(client.timeout)(timeout):
        return  # as it is: a new client would cut the requests of other threads
    hooks = {**hooks, "response": [hook for hook in hooks["response"] if hook is not _check_answer] + [_check_answer]}
    set_client_factory(lambda: type(client)(event_hooks=hooks, follow_redirects=True, timeout=timeout))


def _check_answer(response: Any) -> None:
    """A hook of the client, which runs before it follows a redirect.

    Raises:
        ScratchError: what was sent would be sent again to another host. What is only asked for may be elsewhere.
    """
    for name in ("Retry-After", "RateLimit"):
        if name in response.headers and not _has_plain_pause(response.headers[name]):
            del response.headers[name]  # huggingface_hub would fail on it, or wait for as long
    request = response.request
    if response.has_redirect_location and request.method not in ("GET", "HEAD"):
        target = request.url.join(response.headers["Location"])
        if _place(target) != _place(request.url) and not _is_upgrade(request.url, target):
            raise ScratchError(
                f"the Hub at {_shown(request.url)} redirects an upload to {_shown(target)}, another host, to which "
                "nothing was sent: if that is your Hub, set HF_ENDPOINT to its address"
            )


def _place(url: Any) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _shown(url: Any) -> str:
    return "{}://{}:{}".format(*_place(url))


def _is_upgrade(asked: Any, target: Any) -> bool:
    """Whether it is the same host, encrypted."""
    return (*_place(asked)[::2], *_place(target)[::2]) == ("http", 80, "https", 443) and asked.host == target.host


def _has_plain_pause(header: str) -> bool:
    """Whether the seconds in a header can be waited for."""
    numbers = re.findall(r"\d+", header)
    return header.isascii() and all(len(number) < 9 and int(number) <= LONGEST_PAUSE for number in numbers[-1:])


def _patiently(call: Callable[[], Answer], name: str, left: str) -> Answer:
    """Call the Hub, again where it is out of reach or busy.

    Raises:
        HubError: it stayed so, or its answers make no sense; `left` says how things are.
        ScratchError: it refuses.
    """
    retrying = Retrying(
        retry=retry_if_exception(_passes),
        wait=_pause,
        stop=stop_after_attempt(ATTEMPTS),
        before_sleep=_say_why,
        reraise=True,
    )
    try:
        return retrying(call)
    except ScratchError:
        raise
    except (HTTPError, RuntimeError, ConnectionError, TimeoutError) as error:
        if refusal := _cause(error, ScratchError):
            raise refusal from error
        if _passes(error):
            raise HubError(
                f"the Hub could not be reached, or was too busy, {ATTEMPTS} times: {_reason(error)}. {left}"
            ) from error
        if _cause(error, HfHubHTTPError) is None:
            raise
        raise ScratchError(
            f"the Hub refused {name}: {_reason(error)} (is a token set? 'hf auth login' sets one)"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        said = f"{type(error).__name__}: {_reason(error)}"
        raise HubError(f"what the Hub answers about {name} can't be read: {said}. {left}") from error


def _cause(error: BaseException | None, kind: type[Any]) -> Any:
    """An error, or what caused it, that is of this class; None where there is none."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__
    return error


def _passes(error: BaseException) -> bool:
    """Whether the same may succeed a little later: the Hub was out of reach, or busy."""
    if _cause(error, ScratchError):
        return False
    if answer := _cause(error, HfHubHTTPError):
        return answer.response.status_code in PASSING
    # What goes wrong while a large file is sent comes as a RuntimeError, whichever way it is sent.
    uploading = isinstance(error, RuntimeError) and "uploading" in str(error)
    return uploading or isinstance(error, (HTTPError, ConnectionError, TimeoutError))


def _pause(state: RetryCallState) -> float:
    """Seconds before the next attempt: as the Hub asks for, else 2, 4, 8 …"""
    answer = _cause(state.outcome.exception() if state.outcome else None, HfHubHTTPError)
    headers = answer.response.headers if answer else {}
    limit = re.search(r"\bt=([0-9]{1,9})\b", headers.get("RateLimit", ""))  # IETF draft ratelimit-headers
    asked = limit[1] if limit else headers.get("Retry-After", "")
    plain = re.fullmatch(r"[0-9]{1,9}", asked)  # not str.isdigit, which takes "²" too
    return min(LONGEST_PAUSE, float(asked) + 1 if plain else 2.0**state.attempt_number)


def _say_why(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    seconds = state.next_action.sleep if state.next_action else 0
    print(f"{printable(_reason(error))}; trying again in {seconds:.0f} s", file=sys.stderr)


def _reason(error: BaseException | None) -> str:
    """An error in one line, with what caused it, without secrets."""
    said = []
    while error is not None:
        said.append(" ".join(str(error).split()) or type(error).__name__)
        error = error.__cause__
    return redact(": ".join(dict.fromkeys(said)))
