"""Names of the repository of a push."""

import pytest
from helpers.hub import push
from helpers.loopback_hub import running_hub
from helpers.models import save_tiny


@pytest.mark.slow
def test_a_name_without_an_owner_is_in_the_users_namespace(tmp_path):
    """It is created, and stale files in it are listed and replaced, as with the full name."""
    folder = save_tiny(tmp_path / "model")
    with running_hub() as hub:
        first = push(hub, tmp_path / "home", str(folder), "theirs", "--yes")
        assert first.returncode == 0, first.stderr
        assert set(hub.repositories) == {"tester/theirs"}
        repository = hub.repositories["tester/theirs"]
        repository.commit("main", {**repository.revisions["main"], "chat_template.jinja": b"old"}, "from elsewhere")
        second = push(hub, tmp_path / "home", str(folder), "theirs", "--yes")
        assert second.returncode == 0, second.stderr
        assert "chat_template.jinja" in second.stdout
        assert "chat_template.jinja" not in repository.revisions["main"]


@pytest.mark.slow
def test_an_invalid_name_is_rejected_without_a_request(tmp_path):
    folder = save_tiny(tmp_path / "model")
    with running_hub() as hub:
        for name in ("a/b/c", "../x", "-a", "a--b", "[/x]/y"):
            result = push(hub, tmp_path / "home", str(folder), "--yes", "--", name)
            assert result.returncode == 2, name
            assert len(result.stderr.strip().splitlines()) == 1, result.stderr
            assert name in result.stderr
        assert not hub.repositories
