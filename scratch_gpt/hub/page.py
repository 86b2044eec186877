"""The page of a model on the Hub: `see.html` beside the model, and the same page as a static Space of the same name.

The Space is published before the model, so that no card links a page that is not there. Only a Space that a push has
made, or one that nobody has committed to, is overwritten.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, SpaceCard, SpaceCardData
from huggingface_hub.errors import RepositoryNotFoundError

from ..errors import ScratchError
from ..redaction import redact
from ..untrusted import read_bytes
from .staging import DOCUMENTS, PAGE
from .upload import NOTHING_UPLOADED, call_with_retries, check_repository_name, configure_client

SPACE_FILES = ("README.md", "index.html")
SDK = "static"
# The section of a card on its page, which a push writes above the section on use.
SECTION_START, SECTION_END = b"\n<!-- page -->\n", b"\n<!-- end of page -->\n"
NEXT_SECTION = b"\n## How to use\n"


def add_page(folder: Path, page: str, name: str, revision: str) -> bool:
    """Write the page of a model into its directory, and link it and the Space in the card.

    Args:
        folder: a staged model directory.
        page: the HTML.
        name: repository name, 'user/model'.
        revision: the branch that the directory is pushed to.

    Returns:
        Whether there is a card, and so a link.
    """
    (folder / PAGE).write_text(page, encoding="utf-8")
    hub = HfApi().endpoint
    file = f"{hub}/{name}/resolve/{revision}/{PAGE}?download=true"
    section = (
        f"## In the browser\n\n[A page]({hub}/spaces/{name}) runs this model in the browser and shows how it computes. "
        f"The same page is a file of this repository: [download]({file}) it and open it without a network.\n"
    )
    return write_page_section(folder, section)


def write_page_section(folder: Path, section: str = "") -> bool:
    """Replace the section of a card on its page.

    Args:
        folder: a staged model directory.
        section: the Markdown; "" removes the section, such as that of a card that was downloaded from the Hub.

    Returns:
        Whether there is a card.
    """
    card = folder / DOCUMENTS[0]
    if not card.is_file():
        return False
    content = read_bytes(card)
    before, start, rest = content.partition(SECTION_START)
    _, end, after = rest.partition(SECTION_END)
    if start and end:
        content = before + after
    if section:
        before, heading, after = content.partition(NEXT_SECTION)
        content = before + SECTION_START + section.encode("utf-8") + SECTION_END + heading + after
    card.write_bytes(content)
    return True


def write_space(folder: Path, page: str, name: str) -> None:
    """Write the files of a static Space that shows the page of a model.

    Args:
        folder: where to; it is created.
        page: the HTML.
        name: name of the model's repository, 'user/model', and of the Space.
    """
    folder.mkdir()
    (folder / "index.html").write_text(page, encoding="utf-8")
    title = f"{name.rpartition('/')[2]} in the browser"
    data = SpaceCardData(title=title, sdk=SDK, models=[name])
    text = (
        f"The model [`{name}`]({HfApi().endpoint}/{name}) as one page, which runs it in the browser and shows how it "
        "computes. The page contains the weights, rounded to float16, the tokenizer and all code. It sends nothing and "
        "loads nothing else.\n\nIt was made by `scratch-gpt push --page`.\n"
    )
    SpaceCard(f"---\n{data.to_yaml()}\n---\n\n# {title}\n\n{text}").save(folder / "README.md")


def check_space(name: str, private: bool = False, timeout: float = 120.0) -> None:
    """Check that a push may publish the page of a model as a Space, without changing anything on the Hub.

    Args:
        name: name of the model's repository, 'user/model', and of the Space.
        private: whether the model will be private, if its repository is new.
        timeout: network timeout in seconds, as in `push_directory`.

    Raises:
        HubError: the Hub was unreachable or busy in every attempt.
        ScratchError: there is another Space of that name, or only one of Space and model is private.
    """
    check_repository_name(name)
    configure_client(timeout)
    call_with_retries(lambda: _find_space(HfApi(), name, private), f"Space {name}", NOTHING_UPLOADED)


def push_space(folder: Path, name: str, private: bool = False, timeout: float = 120.0) -> str:
    """Upload the page of a model as a static Space, in one commit. The Space and the model's repository are created if
    they do not exist; a new Space is as private as the model.

    Args:
        folder: the result of `write_space`.
        name: name of the model's repository, 'user/model', and of the Space.
        private: whether the model will be private, if its repository is new.
        timeout: network timeout in seconds, as in `push_directory`.

    Returns:
        The URL of the commit.

    Raises:
        HubError: the Hub was unreachable or busy in every attempt. A commit is atomic, so nothing is half-published.
        ScratchError: as `check_space`, or the Hub refuses the push.
    """

    def push() -> str:
        api = HfApi()
        api.create_repo(name, private=private, exist_ok=True)  # the Space links it
        is_private, parent = _find_space(api, name, private)
        if parent is None:
            api.create_repo(name, repo_type="space", space_sdk=SDK, private=is_private, exist_ok=True)
            parent = api.space_info(name).sha
        options: dict[str, Any] = {"repo_type": "space", "commit_message": "Upload page", "parent_commit": parent}
        operations = [CommitOperationAdd(file, folder / file) for file in SPACE_FILES]
        return api.create_commit(name, operations, **options).commit_url

    check_repository_name(name)
    configure_client(timeout)
    return redact(call_with_retries(push, f"Space {name}", f"the Space {name} has all of the page or nothing"))


def _find_space(api: HfApi, name: str, private: bool) -> tuple[bool, str | None]:
    """Whether the Space of a model is private, and its last commit; None if there is no such Space.

    Raises:
        ScratchError: there is another Space of that name, or only one of Space and model is private.
    """
    with suppress(RepositoryNotFoundError):  # then it will be created, with the visibility that was asked for
        private = bool(api.model_info(name).private)
    try:
        space = api.space_info(name)
    except RepositoryNotFoundError:
        return private, None
    shown = (space.card_data.models if space.card_data else None) or []
    # A Space without a second commit is new: the Hub makes the first one, and a push may have ended there.
    is_ours = name in shown or len(api.list_repo_commits(name, repo_type="space")) == 1
    if space.sdk != SDK or not is_ours:
        raise ScratchError(
            f"the Space {name} exists and is not the page of this model, so nothing was uploaded: rename or delete it, "
            "or push without --page"
        )
    if bool(space.private) != private:
        visible = {True: "private", False: "public"}
        raise ScratchError(
            f"the Space {name} is {visible[bool(space.private)]} and the model {visible[private]}, so nothing was "
            "uploaded: make both private or both public on the Hub"
        )
    return private, space.sha
