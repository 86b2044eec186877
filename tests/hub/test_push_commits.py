"""A push is one commit, deletes only listed files, respects concurrent changes and uploads to no other host."""

import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers import loopback_hub
from helpers.hub import connected_hub, push
from helpers.loopback_hub import TransientFault
from helpers.models import save_tiny

from scratch_gpt.errors import HubError, ScratchError
from scratch_gpt.hub import upload
from scratch_gpt.hub.staging import files_to_upload, is_replaced
from scratch_gpt.hub.upload import Changes, plan_push, push_directory

NAME = "tester/model"


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("commits") / "model")


@pytest.fixture
def directory(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


@pytest.fixture
def hub(monkeypatch):
    with connected_hub(monkeypatch) as server:
        yield server


KEPT = ("onnx/model.onnx", "eval/results.json", "scripts/run.py", "adapter_model.safetensors", "theirs.py")
KEPT += ("adapter_config.json", "vocab.json", "README.md", "sub/config.json", "target_tokenizer/extra/tokenizer.json")
STALE = ("generation_config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors")
STALE += ("target_tokenizer/tokenizer.json", "chat_template.jinja", "configuration_scratch_bigram.py")


def test_only_files_that_an_earlier_push_can_have_uploaded_are_replaced():
    assert [name for name in KEPT if is_replaced(name)] == []
    assert [name for name in STALE if not is_replaced(name)] == []


@pytest.mark.slow
def test_second_push_deletes_exactly_the_listed_files(directory, hub, tmp_path):
    for name in ("generation_config.json", "README.md"):
        (directory / name).unlink(missing_ok=True)
    push_directory(directory, NAME)
    repository = hub.repositories[NAME]
    remote = {**repository.revisions["main"], **{name: b"x" for name in (*KEPT, *STALE)}}
    repository.commit("main", remote, "from elsewhere")
    result = push(hub, tmp_path / "home", str(directory), NAME)  # without an answer to the prompt
    assert result.returncode == 1
    assert "Upload and delete these files?" in result.stdout
    assert result.stderr.endswith("nothing was done\n")
    listed = result.stdout.partition("to be deleted from revision main")[2]
    code = {path.name for path in directory.glob("*.py")}  # the main revision will be in transformers' own class
    assert set(re.findall(r"^│ (\S+) +│$", listed, re.MULTILINE)) == {*STALE, *code} - {"generation_config.json"}
    assert repository.revisions["main"] == remote
    push_directory(directory, NAME, confirmed=plan_push(directory, NAME))
    assert set(remote) - set(repository.revisions["main"]) == set(STALE)


def test_nothing_is_pushed_if_the_repository_has_changed_since_confirmation(directory, hub):
    push_directory(directory, NAME)
    repository = hub.repositories[NAME]
    confirmed = plan_push(directory, NAME)
    assert confirmed == Changes(repository.commits["main"], ())
    repository.commit("main", {**repository.revisions["main"], "chat_template.jinja": b"new"}, "from elsewhere")
    with pytest.raises(ScratchError, match="has changed since its files were listed"):
        push_directory(directory, NAME, confirmed=confirmed)
    listed = plan_push(directory, NAME)
    assert listed.deletions == ("chat_template.jinja",)
    repository.commit("main", {**repository.revisions["main"], "notes.txt": b"new"}, "from elsewhere")
    with pytest.raises(ScratchError, match="has changed since its files were listed"):
        push_directory(directory, NAME, confirmed=listed)
    assert {"chat_template.jinja", "notes.txt"} <= set(repository.revisions["main"])
    push_directory(directory, NAME, confirmed=plan_push(directory, NAME))
    assert "chat_template.jinja" not in repository.revisions["main"]


def test_retry_after_a_lost_response_recognises_its_own_commit(directory, hub, monkeypatch):
    push_directory(directory, NAME)
    (directory / "README.md").write_text("A changed file.\n")
    monkeypatch.setattr(upload, "_retry_delay", lambda state: 0)
    hub.faults = [TransientFault(f"POST /api/models/{NAME}/commit/main", "lost")]
    push_directory(directory, NAME, message="Second", confirmed=plan_push(directory, NAME))
    assert hub.repositories[NAME].titles == ["initial commit", "Upload model", "Second"]


def test_rejected_commit_publishes_nothing_with_xet_enabled(directory, hub, monkeypatch):
    """With hf_xet, `HfApi.upload_folder` splits a rejected commit of more than 20 files into smaller ones."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(loopback_hub, "LFS_SUFFIXES", ())  # all files in the commit, as the Hub here has no Xet storage
    (directory / "README.md").write_text("A model.\n")
    assert len(files_to_upload(directory)) > 20
    hub.faults = [TransientFault(f"POST /api/models/{NAME}/commit/main", 400, 6)]
    with pytest.raises(ScratchError, match=f"the Hub refused {NAME}: .*400"):
        push_directory(directory, NAME)
    assert hub.repositories[NAME].titles == ["initial commit"]
    hub.faults = []
    push_directory(directory, NAME)
    assert hub.repositories[NAME].titles == ["initial commit", "Upload model"]


class OtherHost(BaseHTTPRequestHandler):
    """A host that records the bodies of the requests that it receives."""

    def do_POST(self):
        self.server.received.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_PUT = do_GET = do_POST  # noqa: N815

    def log_message(self, *args): ...


@pytest.fixture
def other_host():
    server = ThreadingHTTPServer(("127.0.0.1", 0), OtherHost)
    server.received = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.mark.slow
@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 302), ("127.0.0.1", 307), ("localhost", 308)])
@pytest.mark.parametrize("request_", ["POST /api/models/tester/model/commit", "PUT /lfs/", "POST /api/repos/create"])
def test_upload_is_not_redirected_to_another_host(host, status, request_, directory, hub, other_host):
    address = f"http://{host}:{other_host.server_address[1]}/take"
    hub.faults = [TransientFault(request_, status, 9, {"Location": address})]
    with pytest.raises(ScratchError, match=f"redirects an upload to http://{host}:.* another host") as caught:
        push_directory(directory, NAME)
    assert not isinstance(caught.value, HubError)
    assert other_host.received == []
    assert len(str(caught.value).splitlines()) == 1


def test_redirects_of_downloads_and_within_the_hub_are_followed(directory, hub, other_host):
    from huggingface_hub.utils import get_session

    push_directory(directory, NAME)
    url = f"http://127.0.0.1:{other_host.server_address[1]}/file"
    hub.faults = [
        TransientFault("GET /away", 302, 1, {"Location": url}),
        TransientFault("POST /here", 307, 1, {"Location": f"{hub.endpoint}/api/validate-yaml"}),
    ]
    assert get_session().get(f"{hub.endpoint}/away").status_code == 200
    assert get_session().post(f"{hub.endpoint}/here", content=b"{}").json() == {"errors": [], "warnings": []}


@pytest.mark.slow
@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "²"},
        {"Retry-After": "9" * 5000},
        {"Retry-After": "-1"},
        {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"},
        {"RateLimit": '"api";r=0;t=' + "9" * 30},
        {"RateLimit": '"api";r=0;t=²'},
    ],
)
@pytest.mark.parametrize("path", ["POST /api/models/tester/model/commit", "PUT /lfs/", "GET /api/models/tester/model"])
def test_malformed_retry_headers_do_not_fail_a_push(headers, path, directory, hub, monkeypatch):
    """`"²".isdigit()` is true but `int("²")` raises, here and in huggingface_hub's retries of LFS uploads."""
    delays = []
    monkeypatch.setattr("time.sleep", delays.append)
    encoded = {name: value.encode().decode("latin-1") for name, value in headers.items()}
    hub.faults = [TransientFault(path, 429, 1, encoded)]
    push_directory(directory, NAME)
    assert "model.safetensors" in hub.repositories[NAME].revisions["main"]
    assert max(delays, default=0) <= upload.MAX_RETRY_DELAY + 1


@pytest.mark.parametrize("content", [b"[]", b"not JSON", b'{"sha": 5}', b"null"])
def test_unparsable_response_gives_an_error_in_one_line(content, directory, hub, monkeypatch):
    push_directory(directory, NAME)
    monkeypatch.setattr(loopback_hub.Handler, "on_info", lambda self, **_: self.reply(content))
    with pytest.raises(HubError, match="can't be parsed") as caught:
        push_directory(directory, NAME)
    assert len(str(caught.value).splitlines()) == 1
