"""Upload a model directory to the Hub in one commit, with retries; the files to be deleted are listed first."""

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

MAIN_REVISION = "main"
NOTHING_UPLOADED = "nothing was uploaded: push again later"  # of errors before the first upload
MAX_ATTEMPTS = 3  # of a whole push; huggingface_hub also retries some single requests
TRANSIENT_STATUSES = {408, 412, 429, 500, 502, 503, 504}  # 412: somebody else has just committed to the branch
MAX_RETRY_DELAY = 300  # seconds; the Hub counts requests over windows of five minutes
Result = TypeVar("Result")


def check_repository_name(name: str) -> None:
    """Check that `name` is a valid repository name on the Hub, 'model' or 'user/model'.

    Raises:
        ScratchError: it is not.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        rules = "only letters, digits, '-', '_' and '.', at most 96 characters"
        raise ScratchError(f"{name!r} is not a valid repository name, expected 'user/model': {rules}") from error


@dataclass(frozen=True)
class Changes:
    """What a push changes in a revision besides adding and overwriting its own files.

    Args:
        parent: the commit that the push builds on; None if the revision does not exist yet.
        deletions: paths of the files that the push deletes: those of an earlier push that it does not upload again.
    """

    parent: str | None
    deletions: tuple[str, ...]


def plan_push(folder: Path, name: str, *, revision: str = MAIN_REVISION, timeout: float = 120.0) -> Changes:
    """Find out which files a push would delete, without changing anything on the Hub.

    Args:
        folder: a model directory.
        name: repository name; the repository need not exist.
        revision: a branch; it need not exist.
        timeout: network timeout in seconds, as in `push_directory`.

    Raises:
        HubError: the Hub was unreachable or busy in every attempt.
        ScratchError: the Hub refuses the request, or `name` is not a valid repository name.
    """
    files = _paths_to_upload(folder)

    def plan() -> Changes:
        api = HfApi()
        full_name = _with_user(api, name)
        try:
            return _plan_changes(api, full_name, revision, files)
        except RevisionNotFoundError:  # the new branch will start at the first commit
            return replace(_plan_changes(api, full_name, _first_commit(api, full_name), files), parent=None)
        except RepositoryNotFoundError:
            return Changes(None, ())

    check_repository_name(name)
    configure_client(timeout)
    return call_with_retries(plan, name, NOTHING_UPLOADED)


def full_repository_name(name: str, timeout: float = 120.0) -> str:
    """The name 'user/model' of a repository; for 'model', the user is the one whose token is set.

    Args:
        name: repository name.
        timeout: network timeout in seconds, as in `push_directory`.

    Raises:
        HubError: the Hub was unreachable or busy in every attempt.
        ScratchError: the Hub refuses the request, or `name` is not a valid repository name.
    """
    check_repository_name(name)
    configure_client(timeout)
    return call_with_retries(lambda: _with_user(HfApi(), name), name, NOTHING_UPLOADED)


def push_directory(
    folder: Path,
    name: str,
    *,
    private: bool = False,
    revision: str = MAIN_REVISION,
    message: str = "Upload model",
    timeout: float = 120.0,
    confirmed: Changes | None = None,
) -> str:
    """Upload the allowed files of a model directory in one commit, which also deletes stale files of earlier pushes.

    If the Hub is unreachable or busy, the whole push is retried. Retries are safe: if an earlier attempt has succeeded,
    nothing is left to commit, and a commit that arrives late is rejected, since each commit names its parent.

    Args:
        folder: a model directory.
        name: repository name; the repository is created if it does not exist.
        private: whether a new repository is private.
        revision: a branch; it is created if it does not exist.
        message: title of the commit.
        timeout: network timeout in seconds: how long to wait without any data transferred. It stays in effect for
            huggingface_hub's client in this process, which by default would wait forever.
        confirmed: the result of `plan_push`; if the repository has changed since, nothing is pushed.

    Returns:
        The URL of the commit.

    Raises:
        HubError: the Hub was unreachable or busy in every attempt. A commit is atomic, so nothing is half-published.
        ScratchError: the Hub refuses the push, redirects an upload to another host, or the repository has changed since
            the files were confirmed.
    """

    def push() -> str:
        return _push_once(folder, name, private, revision, message, confirmed)

    check_repository_name(name)
    configure_client(timeout)
    state = (
        f"{folder} is unchanged, and revision {revision!r} of {name} has all of the push or nothing: push again later"
    )
    return redact(call_with_retries(push, name, state))


def _push_once(folder: Path, name: str, private: bool, revision: str, message: str, confirmed: Changes | None) -> str:
    api = HfApi()
    full_name = api.create_repo(name, private=private, exist_ok=True).repo_id
    if revision != MAIN_REVISION:
        # Branch off the first commit, which is empty: main's files would show another model until the commit.
        api.create_branch(full_name, branch=revision, revision=_first_commit(api, full_name), exist_ok=True)
    paths = _paths_to_upload(folder)
    changes = _plan_changes(api, full_name, revision, paths)
    if confirmed and not _matches_confirmed(api, full_name, revision, message, changes, confirmed):
        raise ScratchError(
            f"revision {revision!r} of {name} has changed since its files were listed, so nothing was pushed: push "
            "again to see which files would be deleted now"
        )
    # Not HfApi.upload_folder: with hf_xet (huggingface_hub 2.4) it may make several commits, and it splits a commit
    # that fails into smaller ones, so a push that the Hub refuses can be half-published. create_commit is atomic.
    operations: list[Any] = [CommitOperationAdd(path, folder / path) for path in paths]
    operations += map(CommitOperationDelete, changes.deletions)
    return api.create_commit(
        full_name, operations, commit_message=message, revision=revision, parent_commit=changes.parent
    ).commit_url


def _with_user(api: HfApi, name: str) -> str:
    return name if "/" in name else f"{api.whoami()['name']}/{name}"


def _paths_to_upload(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in files_to_upload(folder)]


def _first_commit(api: HfApi, name: str) -> str:
    return api.list_repo_commits(name)[-1].commit_id


def _plan_changes(api: HfApi, name: str, revision: str, paths: Collection[str]) -> Changes:
    parent = api.model_info(name, revision=revision).sha
    remote = api.list_repo_files(name, revision=parent)
    return Changes(parent, tuple(sorted(path for path in remote if is_replaced(path) and path not in paths)))


def _matches_confirmed(
    api: HfApi, name: str, revision: str, message: str, current: Changes, confirmed: Changes
) -> bool:
    """Whether only listed files would be deleted and nobody else has committed since. The last commit may be of an
    earlier attempt of this push whose response was lost."""
    if not set(current.deletions) <= set(confirmed.deletions):
        return False
    if confirmed.parent in (None, current.parent):
        return True
    commits = api.list_repo_commits(name, revision=revision)[:2]
    return [commits[0].title, commits[-1].commit_id] == [message, confirmed.parent]


def configure_client(timeout: float) -> None:
    """Set the timeout of huggingface_hub's client and make it refuse to redirect uploads to other hosts."""
    client = get_session()
    hooks = client.event_hooks
    if _check_response in hooks["response"] and client.timeout == type(client.timeout)(timeout):
        return  # already configured; a new client would interrupt the requests of other threads
    response_hooks = [hook for hook in hooks["response"] if hook is not _check_response] + [_check_response]
    hooks = {**hooks, "response": response_hooks}
    set_client_factory(lambda: type(client)(event_hooks=hooks, follow_redirects=True, timeout=timeout))


def _check_response(response: Any) -> None:
    """Response hook of the client; it runs before a redirect is followed. Downloads may be redirected anywhere.

    Raises:
        ScratchError: an upload would be sent again to another host.
    """
    for name in ("Retry-After", "RateLimit"):
        if name in response.headers and not _has_valid_delay(response.headers[name]):
            del response.headers[name]  # huggingface_hub would fail on it, or wait for that long
    request = response.request
    if response.has_redirect_location and request.method not in ("GET", "HEAD"):
        target = request.url.join(response.headers["Location"])
        if _origin(target) != _origin(request.url) and not _is_https_upgrade(request.url, target):
            raise ScratchError(
                f"the Hub at {_format_origin(request.url)} redirects an upload to {_format_origin(target)}, another "
                "host, to which nothing was sent: if that is your Hub, set HF_ENDPOINT to its address"
            )


def _origin(url: Any) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _format_origin(url: Any) -> str:
    return "{}://{}:{}".format(*_origin(url))


def _is_https_upgrade(url: Any, target: Any) -> bool:
    """Whether `target` is the same host over HTTPS instead of HTTP, on the default ports."""
    return (*_origin(url)[::2], *_origin(target)[::2]) == ("http", 80, "https", 443) and url.host == target.host


def _has_valid_delay(header: str) -> bool:
    """Whether the last number in a header, a delay in seconds, is at most `MAX_RETRY_DELAY`."""
    numbers = re.findall(r"\d+", header)
    return header.isascii() and all(len(number) < 9 and int(number) <= MAX_RETRY_DELAY for number in numbers[-1:])


def call_with_retries(call: Callable[[], Result], name: str, state: str) -> Result:
    """Call the Hub, with retries while it is unreachable or busy. `state` describes in errors what was pushed.

    Raises:
        HubError: every attempt failed, or a response of the Hub can't be parsed.
        ScratchError: the Hub refuses the request.
    """
    retrying = Retrying(
        retry=retry_if_exception(_is_transient),
        wait=_retry_delay,
        stop=stop_after_attempt(MAX_ATTEMPTS),
        before_sleep=_print_retry,
        reraise=True,
    )
    try:
        return retrying(call)
    except ScratchError:
        raise
    except (HTTPError, RuntimeError, ConnectionError, TimeoutError) as error:
        if refusal := _find_cause(error, ScratchError):
            raise refusal from error
        if _is_transient(error):
            raise HubError(
                f"the Hub was unreachable or busy in {MAX_ATTEMPTS} attempts: {_describe(error)}. {state}"
            ) from error
        if _find_cause(error, HfHubHTTPError) is None:
            raise
        raise ScratchError(
            f"the Hub refused {name}: {_describe(error)} (is a token set? 'hf auth login' sets one)"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {_describe(error)}"
        raise HubError(f"a response of the Hub about {name} can't be parsed: {reason}. {state}") from error


def _find_cause(error: BaseException | None, kind: type[Any]) -> Any:
    """The first error of class `kind` in the chain of `error` and its causes, or None."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__
    return error


def _is_transient(error: BaseException) -> bool:
    """Whether a retry may succeed: the Hub was unreachable or busy."""
    if _find_cause(error, ScratchError):
        return False
    if http_error := _find_cause(error, HfHubHTTPError):
        return http_error.response.status_code in TRANSIENT_STATUSES
    # huggingface_hub raises RuntimeError for any failed upload of a large file.
    uploading = isinstance(error, RuntimeError) and "uploading" in str(error)
    return uploading or isinstance(error, (HTTPError, ConnectionError, TimeoutError))


def _retry_delay(state: RetryCallState) -> float:
    """Seconds before the next attempt: what the Hub's response requests, otherwise 2, 4, 8 …"""
    http_error = _find_cause(state.outcome.exception() if state.outcome else None, HfHubHTTPError)
    headers = http_error.response.headers if http_error else {}
    limit = re.search(r"\bt=([0-9]{1,9})\b", headers.get("RateLimit", ""))  # IETF draft ratelimit-headers
    requested = limit[1] if limit else headers.get("Retry-After", "")
    is_number = re.fullmatch(r"[0-9]{1,9}", requested)  # unlike str.isdigit, which accepts "²"
    return min(MAX_RETRY_DELAY, float(requested) + 1 if is_number else 2.0**state.attempt_number)


def _print_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    seconds = state.next_action.sleep if state.next_action else 0
    print(f"{printable(_describe(error))}; retrying in {seconds:.0f} s", file=sys.stderr)


def _describe(error: BaseException | None) -> str:
    """An error and its causes in one line, without secrets."""
    messages = []
    while error is not None:
        messages.append(" ".join(str(error).split()) or type(error).__name__)
        error = error.__cause__
    return redact(": ".join(dict.fromkeys(messages)))
