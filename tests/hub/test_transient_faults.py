"""Pushes to a faulty Hub over real HTTP: they are retried, errors are reported, and nothing is half-published."""

import hashlib
import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.hub import TOKEN, hub_environment, push
from helpers.loopback_hub import TransientFault, running_hub
from helpers.models import save_tiny
from helpers.processes import run_python

from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.staging import files_to_upload, foreign_code

COMMIT = "POST /api/models/tester/{}/commit/{}"
# Name of the repository: the faults of its requests, and "success" or the error of the push.
FAULTS = {
    "busy": (
        [
            TransientFault("POST /api/models/tester/busy/preupload", 502),
            TransientFault(COMMIT.format("busy", "main"), 429, headers={"Retry-After": "1"}),
            TransientFault("GET /api/models/tester/busy/tree", 500),
        ],
        "success",
    ),
    "disconnect": ([TransientFault("PUT /lfs/", "disconnect", 2)], "success"),
    "hang": ([TransientFault(COMMIT.format("hang", "main"), "hang")], "success"),
    "late": ([TransientFault(COMMIT.format("late", "main"), "late")], "success"),
    "limited": (
        [TransientFault(COMMIT.format("limited", "main"), 429, headers={"RateLimit": '"api";r=0;t=1'})],
        "success",
    ),
    "denied": ([TransientFault("PUT /lfs/", 403)], "the Hub refused tester/denied: Error while uploading .*403"),
    "lost": ([TransientFault(COMMIT.format("lost", "main"), "lost")], "success"),
    "down": ([TransientFault(COMMIT.format("down", "main"), 503, 99)], "was unreachable or busy in 3 attempts: .*503"),
    "broken": (
        [TransientFault(COMMIT.format("broken", "main"), "disconnect", 99)],
        "was unreachable or busy in 3 attempts: ",
    ),
    "branch": (
        [TransientFault(COMMIT.format("branch", "scratch_gpt"), 503, 99)],
        "revision 'scratch_gpt' of tester/branch has all",
    ),
    "forbidden": (
        [TransientFault(COMMIT.format("forbidden", "main"), 403, 99)],
        "the Hub refused tester/forbidden: .*403",
    ),
}
SCRIPT = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from scratch_gpt.hub.upload import push_directory

def push(name):
    revisions = ("main", "scratch_gpt") if name == "branch" else ("main",)
    try:
        for revision in revisions:
            result = push_directory(Path(sys.argv[1]), f"tester/{name}", revision=revision, timeout=5)
        return [result, None, 0]
    except Exception as error:
        return [str(error), type(error).__name__, error.exit_code]

names = sys.argv[2:]
first = [push(name) for name in names[:2]]  # these two upload the weights
with ThreadPoolExecutor(len(names)) as pool:
    print(json.dumps(dict(zip(names, [*first, *pool.map(push, names[2:])]))))
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("faults") / "model")


def file_hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def outcomes(directory):
    """The result or error of the push to each repository, the Hub, and the output."""
    before = file_hashes(directory)
    with running_hub() as hub:
        first = ("denied", "disconnect")  # these upload the weights, which the Hub then has
        names = [*first, *(name for name in FAULTS if name not in first)]
        # Copies, since the Hub counts down how often each occurs, and pytest may set this module up again.
        hub.faults = [replace(fault) for name in names for fault in FAULTS[name][0]]
        environment = hub_environment(hub, directory.parent / "home")
        result = run_python("-c", SCRIPT, str(directory), *names, cwd=directory.parent, env=environment)
        yield json.loads(result.stdout), hub, result.stdout + result.stderr
    assert file_hashes(directory) == before


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_push_is_complete_or_not_published(name, outcomes, directory):
    results, hub, _ = outcomes
    text, error, code = results[name]
    repository = hub.repositories[f"tester/{name}"]
    if name == "late":  # the commit of the first attempt arrives after that of the second, and is rejected
        wait_for(lambda: 412 in hub.statuses)
    if FAULTS[name][1] == "success":
        assert error is None, text
        uploaded = {path: hashlib.sha256(content).hexdigest() for path, content in repository.revisions["main"].items()}
        assert {path: digest for path, digest in uploaded.items() if path != ".gitattributes"} == file_hashes(directory)
        assert repository.titles == ["initial commit", "Upload model"]
        return
    assert re.search(FAULTS[name][1], text), text
    refused = name in ("forbidden", "denied")
    assert (error, code) == (("ScratchError", 2) if refused else ("HubError", 1))
    revision = "scratch_gpt" if name == "branch" else "main"
    assert set(repository.revisions[revision]) == {".gitattributes"}
    commits = [request for request in hub.requests if request.startswith(COMMIT.format(name, revision))]
    assert len(commits) == {"forbidden": 1, "denied": 0}.get(name, 3)


def test_retries_are_reported_with_reason_and_delay(outcomes):
    results, _, output = outcomes
    assert "429" in output
    assert "retrying in 2 s" in output
    assert "Traceback" not in json.dumps(results)


@pytest.mark.parametrize(
    "status", [pytest.param(403, marks=pytest.mark.slow), pytest.param(503, marks=pytest.mark.release)]
)
def test_secrets_in_responses_are_redacted(directory, tmp_path, status):
    with running_hub() as hub:
        message = f"bad token {TOKEN} for https://me:password@host/x?X-Amz-Signature=0123456789"
        hub.faults = [TransientFault("POST /api/repos/create", status, 9, {"X-Error-Message": message})]
        result = push(hub, tmp_path / "home", str(directory), "tester/secrets", "--yes")
    assert result.returncode == (2 if status == 403 else 1)
    assert ("the Hub refused tester/secrets" in result.stderr) == (status == 403)
    assert "bad token <HF_TOKEN> for https://<password>@host/x?X-Amz-Signature=<…>" in result.stderr
    for secret in (TOKEN, "me:password", "0123456789"):
        assert secret not in result.stderr + result.stdout


@pytest.mark.slow
def test_foreign_code_runs_only_with_trust_remote_code(directory, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(directory, folder)
    ran = tmp_path / "ran"
    with (folder / "block.py").open("a") as file:
        file.write(f"import huggingface_hub\nopen({str(ran)!r}, 'w').write(str(huggingface_hub.get_token()))\n")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/token").write_text(TOKEN)  # as 'hf auth login' saves it
    with running_hub() as hub:
        result = push(hub, tmp_path / "home", str(folder), "tester/theirs", "--yes")
        assert result.returncode == 2
        assert "code that is not this package's: block.py" in result.stderr
        assert not ran.exists()
        trusted = push(hub, tmp_path / "home", str(folder), "tester/theirs", "--yes", "--trust_remote_code")
        assert trusted.returncode == 0, trusted.stderr
        assert "running code from" in trusted.stdout
        assert ": block.py" in " ".join(trusted.stdout.split())
        assert ran.read_text() == "None"  # it ran, without access to a token
        assert "tester/theirs" in hub.repositories


@pytest.mark.parametrize("reference", ["sub/theirs.Config", "someone/else--theirs.Config", "theirs.Config"])
def test_code_referenced_only_by_a_config_is_foreign(directory, tmp_path, reference):
    folder = tmp_path / "model"
    shutil.copytree(directory, folder)
    assert foreign_code(folder) == []
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"]["AutoConfig"] = reference
    (folder / "config.json").write_text(json.dumps(config))
    assert foreign_code(folder) == [reference]


def test_link_to_outside_is_not_uploaded(directory, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(directory, folder)
    (tmp_path / "token").write_text(TOKEN)
    (folder / "README.md").symlink_to(tmp_path / "token")
    with pytest.raises(ScratchError, match=r"can be pushed: README\.md is a link to"):
        files_to_upload(folder)
