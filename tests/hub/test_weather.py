"""The Hub under bad weather, over real HTTP: what passes is sat out, the rest is said, no push is half-visible."""

import hashlib
import json
import re
import shutil
import time
from pathlib import Path

import pytest
from helpers.hub import online, push
from helpers.loopback_hub import Storm, running_hub
from helpers.models import save_tiny
from helpers.processes import run_python

from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.staging import files_to_upload, foreign_code

TOKEN = "hf_" + "x" * 34
COMMIT = "POST /api/models/tester/{}/commit/{}"
# By the name of the repository: what befalls its requests, and what comes of the push.
STORMS = {
    "busy": (
        [
            Storm("POST /api/models/tester/busy/preupload", 502),
            Storm(COMMIT.format("busy", "main"), 429, headers={"Retry-After": "1"}),
            Storm("GET /api/models/tester/busy/tree", 500),
        ],
        "arrives",
    ),
    "cut": ([Storm("PUT /lfs/", "cut", 2)], "arrives"),
    "silent": ([Storm(COMMIT.format("silent", "main"), "silent")], "arrives"),
    "late": ([Storm(COMMIT.format("late", "main"), "late")], "arrives"),
    "limited": (
        [Storm(COMMIT.format("limited", "main"), 429, headers={"RateLimit": '"api";r=0;t=1'})],
        "arrives",
    ),
    "denied": ([Storm("PUT /lfs/", 403)], "the Hub refused tester/denied: Error while uploading .*403"),
    "lost": ([Storm(COMMIT.format("lost", "main"), "lost")], "arrives"),
    "down": ([Storm(COMMIT.format("down", "main"), 503, 99)], "could not be reached, or was too busy, 3 times: .*503"),
    "broken": ([Storm(COMMIT.format("broken", "main"), "cut", 99)], "could not be reached, or was too busy, 3 times: "),
    "native": (
        [Storm(COMMIT.format("native", "native"), 503, 99)],
        "revision 'native' of tester/native has all",
    ),
    "forbidden": ([Storm(COMMIT.format("forbidden", "main"), 403, 99)], "the Hub refused tester/forbidden: .*403"),
}
SCRIPT = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from scratch_gpt.hub.upload import push_directory

def push(name):
    revisions = ("main", "native") if name == "native" else ("main",)
    try:
        for revision in revisions:
            result = push_directory(Path(sys.argv[1]), f"tester/{name}", revision=revision, timeout=5)
        return [result, None, 0]
    except Exception as error:
        return [str(error), type(error).__name__, error.exit_code]

names = sys.argv[2:]
first = [push(name) for name in names[:2]]  # those that upload the weights
with ThreadPoolExecutor(len(names)) as pool:
    print(json.dumps(dict(zip(names, [*first, *pool.map(push, names[2:])]))))
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weather") / "model")


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def outcomes(directory):
    """Of each storm: what was returned or raised; with the Hub, and what stood on the screen."""
    before = contents(directory)
    with running_hub() as hub:
        names = sorted(STORMS, key=lambda name: ("denied", "cut").index(name) if name in ("denied", "cut") else 2)
        hub.weather = [storm for name in names for storm in STORMS[name][0]]
        environment = online(hub, directory.parent / "home")
        result = run_python("-c", SCRIPT, str(directory), *names, cwd=directory.parent, env=environment)
        yield json.loads(result.stdout), hub, result.stdout + result.stderr
    assert contents(directory) == before


def wait_for(condition) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("name", STORMS)
def test_a_push_arrives_whole_or_not_at_all(name, outcomes, directory):
    found, hub, _ = outcomes
    text, error, code = found[name]
    repository = hub.repositories[f"tester/{name}"]
    if name == "late":  # the first attempt's commit comes after the second's, and is refused
        wait_for(lambda: 412 in hub.statuses)
    if STORMS[name][1] == "arrives":
        assert error is None, text
        sent = {path: hashlib.sha256(content).hexdigest() for path, content in repository.revisions["main"].items()}
        assert {path: digest for path, digest in sent.items() if path != ".gitattributes"} == contents(directory)
        assert repository.titles == ["initial commit", "Upload model"]
        return
    assert re.search(STORMS[name][1], text), text
    refused = name in ("forbidden", "denied")
    assert (error, code) == (("ScratchError", 2) if refused else ("HubError", 1))
    revision = "native" if name == "native" else "main"
    assert set(repository.revisions[revision]) == {".gitattributes"}
    asked = [request for request in hub.requests if request.startswith(COMMIT.format(name, revision))]
    assert len(asked) == {"forbidden": 1, "denied": 0}.get(name, 3)


def test_what_is_waited_for_is_said_and_no_token_is(outcomes):
    found, _, screen = outcomes
    assert "429" in screen
    assert "trying again in 2 s" in screen
    assert "Traceback" not in json.dumps(found)


@pytest.mark.parametrize("status", [403, 503])
def test_a_hub_that_gives_a_token_away_does_not_reach_the_screen(directory, tmp_path, status):
    with running_hub() as hub:
        message = f"bad token {TOKEN} for https://me:password@host/x?X-Amz-Signature=0123456789"
        hub.weather = [Storm("POST /api/repos/create", status, 9, {"X-Error-Message": message})]
        result = push(hub, tmp_path / "home", str(directory), "tester/told", "--yes")
    assert result.returncode == (2 if status == 403 else 1)
    assert ("the Hub refused tester/told" in result.stderr) == (status == 403)
    assert "bad token <HF_TOKEN> for https://<password>@host/x?X-Amz-Signature=<…>" in result.stderr
    for secret in (TOKEN, "me:password", "0123456789"):
        assert secret not in result.stderr + result.stdout


def test_code_that_is_not_ours_is_not_run_by_a_push_unasked(directory, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(directory, folder)
    ran = tmp_path / "ran"
    with (folder / "block.py").open("a") as file:
        file.write(f"import huggingface_hub\nopen({str(ran)!r}, 'w').write(str(huggingface_hub.get_token()))\n")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/token").write_text(TOKEN)  # as 'hf auth login' leaves it
    with running_hub() as hub:
        result = push(hub, tmp_path / "home", str(folder), "tester/theirs", "--yes")
        assert result.returncode == 2
        assert "code that is not this package's: block.py" in result.stderr
        assert not ran.exists()
        asked = push(hub, tmp_path / "home", str(folder), "tester/theirs", "--yes", "--trust_remote_code")
        assert asked.returncode == 0, asked.stderr
        printed = " ".join(asked.stdout.split())
        assert "running code of" in printed
        assert ": block.py" in printed
        assert ran.read_text() == "None"  # it ran, and was given no token
        assert "tester/theirs" in hub.repositories


@pytest.mark.parametrize("reference", ["sub/theirs.Config", "someone/else--theirs.Config", "theirs.Config"])
def test_code_that_only_a_config_names_is_foreign_too(directory, tmp_path, reference):
    folder = tmp_path / "model"
    shutil.copytree(directory, folder)
    assert foreign_code(folder) == []
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"]["AutoConfig"] = reference
    (folder / "config.json").write_text(json.dumps(config))
    assert foreign_code(folder) == [reference]


def test_what_a_link_points_to_is_not_published(directory, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(directory, folder)
    (tmp_path / "token").write_text(TOKEN)
    (folder / "README.md").symlink_to(tmp_path / "token")
    with pytest.raises(ScratchError, match=r"can be pushed: README\.md is a link to"):
        files_to_upload(folder)
