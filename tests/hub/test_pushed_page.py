"""`scratch-gpt push --page`: the page beside the model and as a static Space, and what it refuses."""

import json
import re
import urllib.request
from pathlib import Path

import pytest
from helpers.hub import connected_hub, push
from helpers.loopback_hub import TransientFault, running_hub
from helpers.models import save_tiny
from helpers.pages import shown
from helpers.processes import PROJECT, run_here
from huggingface_hub import HfApi, RepoCard

from scratch_gpt.errors import HubError, ScratchError
from scratch_gpt.hub import upload
from scratch_gpt.hub.model_directory import save_tokenizers
from scratch_gpt.hub.page import add_page, check_space, push_space, write_page_section, write_space
from scratch_gpt.hub.staging import staged
from scratch_gpt.hub.upload import full_repository_name, plan_push, push_directory
from scratch_gpt.see.page import build_page

NAME = "tester/model"
SPACE = f"spaces/{NAME}"
CARD = "---\nlibrary_name: transformers\n---\n\n# Model\n\nText.\n\n## How to use\n\nCode.\n"


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    folder = save_tiny(tmp_path_factory.mktemp("page") / "model")
    (folder / "README.md").write_text(CARD)
    (folder / "see.html").write_text("of other weights")
    return folder


@pytest.fixture
def hub(monkeypatch):
    with connected_hub(monkeypatch) as server:
        yield server


def links(card: bytes) -> list[str]:
    return re.findall(r"\]\((http[^)]+)\)", card.decode())


@pytest.mark.slow
def test_the_page_is_beside_the_model_and_a_space_and_the_card_links_both(directory, tmp_path):
    with running_hub() as hub:
        result = push(hub, tmp_path / "home", str(directory), "model", "--page", "--yes")
        assert result.returncode == 0, result.stderr
        model, space = hub.repositories[NAME], hub.repositories[SPACE]
        page = space.revisions["main"]["index.html"]
        assert page.decode() == build_page([str(directory)], title=NAME)
        titles = ["Upload model, code and card", "Upload LlamaForCausalLM and card"]
        assert model.titles == ["initial commit", "branch scratch_gpt", *titles]
        assert (space.titles, space.sdk, space.private) == (["initial commit", "Upload page"], "static", False)
        for revision in ("main", "scratch_gpt"):
            files = model.revisions[revision]
            assert files["see.html"] == page
            opened, download = links(files["README.md"])
            assert opened.removeprefix(f"{hub.endpoint}/") in hub.repositories
            assert f"/resolve/{revision}/see.html" in download
            assert urllib.request.urlopen(download).read() == page
        (back,) = links(space.revisions["main"]["README.md"])
        assert back.removeprefix(f"{hub.endpoint}/") in hub.repositories
        commits = [request for request in hub.requests if "/commit/" in request]
        assert [commit.split("/")[2] for commit in commits] == ["spaces", "models", "models"]
        listed = " ".join(result.stdout.split())
        assert "page to Space tester/model" in listed
        assert len(re.findall(r"│ (?:see|index)\.html", listed)) == 3


@pytest.mark.slow
def test_without_a_space_nothing_of_the_model_is_published(tmp_path, hub):
    found = shown("bigram")
    found.model.save_pretrained(tmp_path / "bigram")
    save_tokenizers(*found.tokenizers, tmp_path / "bigram")
    hub.faults = [TransientFault(f"POST /api/{SPACE}/commit/main", 403, 9)]
    result = run_here("scratch-gpt", "push", str(tmp_path / "bigram"), NAME, "--page", "--yes", check=False)
    assert result.returncode == 2
    assert f"the Hub refused Space {NAME}" in result.stderr
    assert {name: each.titles for name, each in hub.repositories.items()} == {
        NAME: ["initial commit"],
        SPACE: ["initial commit"],
    }
    assert "no card of revision main links the page" in " ".join(result.stdout.split())


def refused(directory: Path, *options: str) -> str:
    result = run_here("scratch-gpt", "push", str(directory), NAME, "--page", "--yes", *options, check=False)
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


def test_a_model_that_a_page_cant_show_is_refused_before_anything_is_uploaded(directory, tmp_path, hub):
    with staged(directory) as copy:
        settings = json.loads((copy / "generation_config.json").read_text())
        (copy / "generation_config.json").write_text(json.dumps({**settings, "guidance_scale": 2.0}))
        assert "a page can't generate with guidance_scale=2.0" in refused(copy)
    assert not hub.repositories
    assert not [request for request in hub.requests if not request.startswith("GET")]


@pytest.mark.parametrize("sdk", ["static", "gradio"])
def test_a_space_of_something_else_is_kept(sdk, directory, hub):
    api = HfApi()
    api.create_repo(NAME, repo_type="space", space_sdk=sdk)
    api.upload_file(path_or_fileobj=b"theirs", path_in_repo="index.html", repo_id=NAME, repo_type="space")
    before = dict(hub.repositories[SPACE].revisions["main"])
    assert f"the Space {NAME} exists and is not the page of this model" in refused(directory)
    assert hub.repositories[SPACE].revisions["main"] == before
    assert list(hub.repositories) == [SPACE]


@pytest.fixture
def space(tmp_path, hub) -> Path:
    folder = tmp_path / "space"
    write_space(folder, "<p>The page.", NAME)
    return folder


def test_a_space_is_as_private_as_its_model(directory, space, hub):
    HfApi().create_repo(NAME, private=True)
    push_space(space, NAME)  # without a flag, as it is about new repositories
    assert hub.repositories[SPACE].private
    push_space(space, NAME)
    hub.repositories[SPACE].private = False
    assert f"the Space {NAME} is public and the model private" in refused(directory)
    with pytest.raises(ScratchError, match="is public and the model private"):
        push_space(space, NAME)
    hub.repositories[SPACE].private, hub.repositories[NAME].private = True, False
    with pytest.raises(ScratchError, match="is private and the model public"):
        check_space(NAME)


def test_a_new_private_model_has_a_private_space(space, hub):
    push_space(space, NAME, private=True)
    assert [each.private for each in hub.repositories.values()] == [True, True]


def test_a_second_push_replaces_the_page_in_one_commit(space, hub, monkeypatch):
    monkeypatch.setattr(upload, "_retry_delay", lambda state: 0)
    hub.faults = [TransientFault(f"POST /api/{SPACE}/commit/main", "lost")]
    push_space(space, NAME)
    (space / "index.html").write_text("<p>Another page.")
    push_space(space, NAME)
    repository = hub.repositories[SPACE]
    assert repository.titles == ["initial commit", "Upload page", "Upload page"]
    assert repository.revisions["main"]["index.html"] == b"<p>Another page."


def test_a_space_whose_creation_was_interrupted_is_used(space, hub):
    HfApi().create_repo(NAME, repo_type="space", space_sdk="static")
    push_space(space, NAME)
    assert hub.repositories[SPACE].titles == ["initial commit", "Upload page"]


def test_the_metadata_of_the_space_are_valid(space, hub):
    data = RepoCard.load(space / "README.md", repo_type="space").data.to_dict()
    assert data == {"title": "model in the browser", "sdk": "static", "models": [NAME]}
    (space / "README.md").write_text("---\nsdk: none\n---\n")
    with pytest.raises(HubError, match="invalid metadata of a Space"):
        push_space(space, NAME)


def test_the_section_of_a_card_is_replaced_and_removed(tmp_path):
    card = tmp_path / "README.md"
    for text in (CARD, "No sections", "Windows.\r\n\r\n## How to use\r\n"):
        card.write_bytes(text.encode())
        assert add_page(tmp_path, "<p>The page.", "tester/old", "main")
        assert add_page(tmp_path, "<p>The page.", NAME, "main")
        written = card.read_text()
        assert written.count("## In the browser") == 1
        assert "tester/old" not in written
        if text == CARD:
            assert written.index("# Model") < written.index("## In the browser") < written.index("## How to use")
        assert write_page_section(tmp_path)
        assert card.read_bytes() == text.encode()
    assert "\n## How to use\n" in (PROJECT / "model_card.md").read_text()
    card.unlink()
    assert not add_page(tmp_path, "<p>The page.", NAME, "main")


def test_a_push_without_a_page_deletes_the_old_one(directory, hub):
    with staged(directory) as copy:
        assert not (copy / "see.html").exists()
        add_page(copy, "<p>The page.", NAME, "main")
        push_directory(copy, NAME)
    assert hub.repositories[NAME].revisions["main"]["see.html"] == b"<p>The page."
    with staged(directory) as copy:
        assert plan_push(copy, NAME).deletions == ("see.html",)


def test_a_name_without_a_user_is_of_the_tokens_user(hub):
    assert full_repository_name("model") == NAME
    assert full_repository_name("other/model") == "other/model"
    with pytest.raises(ScratchError, match="is not a valid repository name"):
        full_repository_name("a b")
