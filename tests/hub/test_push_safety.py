"""A push sends what it has tried, runs what it has named, deletes what it has listed, and tells no other host."""

import json
import os
import re
import shutil
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from helpers.hub import online, push
from helpers.loopback_hub import Storm, running_hub
from helpers.models import save_tiny
from helpers.processes import run_command, run_here
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from scratch_gpt.errors import HubError, ScratchError
from scratch_gpt.hub import upload
from scratch_gpt.hub.push import check_sizes, verify_loads_without_package, write_native_twin
from scratch_gpt.hub.staging import files_to_upload, foreign_code, is_replaced, staged
from scratch_gpt.hub.upload import Changes, plan_push, push_directory
from scratch_gpt.redaction import redact

NAME = "tester/theirs"


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("safety") / "model")


@pytest.fixture
def directory(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


@pytest.fixture
def hub():
    with running_hub() as server:
        yield server


@pytest.fixture
def client(hub, monkeypatch):
    """This process's client, connected to the hub; forgotten afterwards."""
    from huggingface_hub import constants, hf_api
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for module in (constants, hf_api):
        if hasattr(module, "ENDPOINT"):
            monkeypatch.setattr(module, "ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield hub
    _http.set_client_factory(_http.default_client_factory)


def edit(path: Path, **fields) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def marking(folder: Path) -> tuple[str, Path]:
    """Code that leaves a mark, and where."""
    mark = folder.parent / "ran"
    return f"open({str(mark)!r}, 'a').write(__name__)\n", mark


def test_what_is_staged_is_what_is_sent_and_is_gone_in_the_end(directory):
    code, _ = marking(directory)
    for name in ("custom_generate/generate.py", "sub/model.safetensors", "modelx.safetensors", "notes.txt", "a.bin"):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(code)
    save_file({"a": torch.ones(1)}, directory / "modelx.safetensors")
    sent = {path.relative_to(directory) for path in files_to_upload(directory)}
    with staged(directory) as copy:
        assert {path.relative_to(copy) for path in copy.rglob("*") if path.is_file()} == sent
        assert (copy / "model.safetensors").samefile(directory / "model.safetensors")  # not a second one of its size
        assert not (copy / "config.json").samefile(directory / "config.json")
        assert copy.name == directory.name
    assert {str(name) for name in sent} & {"modelx.safetensors", "notes.txt", "a.bin"} == set()
    assert [path.name for path in directory.parent.iterdir()] == ["model"]
    with pytest.raises(ScratchError, match=r"^no model") as caught, staged(directory) as copy:
        raise ScratchError(f"no model in {copy}")
    assert str(caught.value) == f"no model in {directory}"


def test_custom_generate_never_runs_and_is_not_sent(directory, hub, tmp_path):
    """It ran in the process that tries the model, with nobody having asked for it."""
    code, mark = marking(directory)
    (directory / "custom_generate").mkdir()
    (directory / "custom_generate/generate.py").write_text(f"{code}def generate(model, **more): return None\n")
    for trust in ((), ("--trust_remote_code",)):
        result = push(hub, tmp_path / "home", str(directory), NAME, "--yes", *trust)
        assert result.returncode == 0, result.stderr
        assert "not uploaded: custom_generate" in result.stdout
        assert not mark.exists()
    assert not [name for name in hub.repositories[NAME].revisions["main"] if "custom_generate" in name]


def test_a_pickle_beside_weights_of_another_name_is_not_what_is_tried(directory):
    """The process that tried it took the pickle, and the other file was sent."""
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").rename(directory / "model_x.safetensors")
    with pytest.raises(ScratchError, match=r"want model\.safetensors in it, or an index"):
        files_to_upload(directory)
    with pytest.raises(ScratchError, match="does not open without this package"):
        verify_loads_without_package(directory, timeout=120)  # even where both are there, no pickle is opened


def test_an_index_sends_exactly_its_shards(directory):
    model = AutoModelForCausalLM.from_pretrained(directory)
    (directory / "model.safetensors").unlink()
    model.save_pretrained(directory, max_shard_size="20KB")
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert len(shards) > 1
    shutil.copy(directory / min(shards), directory / "model-00009-of-00009.safetensors")
    sent = {path.name for path in files_to_upload(directory) if path.suffix == ".safetensors"}
    assert sent == shards
    index["weight_map"]["model.norm.weight"] = "modely.safetensors"
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ScratchError, match=r"names 'modely\.safetensors', want names such as"):
        files_to_upload(directory)
    index["weight_map"]["model.norm.weight"] = "model-00008-of-00009.safetensors"
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ScratchError, match="which is not there"):
        files_to_upload(directory)


def fifo(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def fifo_of_code(folder: Path) -> None:
    os.mkfifo(folder / "more.py")


def link_out(folder: Path) -> None:
    (folder.parent / "token").write_text("secret")
    (folder / "README.md").symlink_to(folder.parent / "token")


def adapter(folder: Path) -> None:
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(folder.parent / "elsewhere"), "r": 1}
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def adapter_pickle(folder: Path) -> None:
    torch.save({}, folder / "adapter_model.bin")


def other_weights(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "other.bin")
    edit(folder / "config.json", transformers_weights="other.bin")


def pipeline_of_theirs(folder: Path) -> None:
    pipeline = {"impl": "theirs.Pipe", "pt": ["AutoModelForCausalLM"], "type": "text"}
    edit(folder / "config.json", custom_pipelines={"text-generation": pipeline})


def second_tokenizer(folder: Path) -> None:
    shutil.copytree(folder, folder / "target_tokenizer", ignore=lambda *_: ["model.safetensors"])
    edit(folder / "target_tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": [None, "theirs.Tokenizer"]})
    edit(folder / "config.json", target_tokenizer=True)


def changed_code(folder: Path) -> None:
    with (folder / "block.py").open("a") as file:
        file.write(marking(folder)[0])


def auto_map(reference: str, where: str = "config.json", key: str = "AutoConfig"):
    return lambda folder: edit(folder / where, auto_map={key: reference})


REFUSED = {
    "a named pipe for weights": (fifo, "named pipe"),
    "a named pipe for code": (fifo_of_code, "more.py is a named pipe"),
    "a link that leads out": (link_out, "README.md is a link to"),
    "an adapter of another base": (adapter, "adapter_config.json is of an adapter"),
    "a pickle of an adapter": (adapter_pickle, "adapter_model.bin is of an adapter"),
    "weights that a config names": (other_weights, "does not open without this package"),
    "a pipeline": (pipeline_of_theirs, "not this package's: theirs.Pipe, theirs.py"),
    "a second tokenizer": (second_tokenizer, "not this package's: theirs.Tokenizer, theirs.py"),
    "changed code": (changed_code, "not this package's: block.py"),
    "code in a folder": (auto_map("sub/theirs.Config"), "not this package's: sub/theirs.Config"),
    "code elsewhere": (auto_map("who/else--theirs.Config"), "not this package's: theirs.py, who/else--theirs.Config"),
    "code of a tokenizer": (
        auto_map("theirs.Tokenizer", "tokenizer_config.json", "AutoTokenizer"),
        "not this package's: theirs.Tokenizer, theirs.py",
    ),
    "sizes": (lambda folder: edit(folder / "config.json", hidden_size=10**9), "parameters or more"),
    "no object": (lambda folder: (folder / "config.json").write_text("[]"), "config.json holds list"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_push_refuses_runs_nothing_and_reaches_no_hub(case, directory, monkeypatch):
    tamper, said = REFUSED[case]
    code, mark = marking(directory)
    if "theirs" in said:
        (directory / "theirs.py").write_text(code)
        (directory / "sub").mkdir()
        (directory / "sub/theirs.py").write_text(code)
    tamper(directory)
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115
    result = run_here("scratch-gpt", "push", str(directory), NAME, "--yes", "--native", check=False)
    assert result.returncode == 2, result.stderr
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not mark.exists()
    assert not [path for path in directory.parent.iterdir() if path.name.startswith(".push")]


def test_with_trust_what_is_named_is_what_runs(directory):
    """In the second tokenizer of a native twin too, which its code alone is named for; without trust nothing runs."""
    code, mark = marking(directory)
    tokenizer = "from transformers import PreTrainedTokenizerFast\nclass Tokenizer(PreTrainedTokenizerFast): pass\n"
    (directory / "theirs.py").write_text(code + tokenizer)
    second_tokenizer(directory)
    with staged(directory) as copy:
        assert foreign_code(copy) == ["theirs.Tokenizer", "theirs.py"]
        with suppress(ScratchError):  # it may open without that code
            write_native_twin(copy, directory.parent / "twin", trust_remote_code=False)
        assert not mark.exists()
        with suppress(ScratchError):  # a twin that needs code is none
            write_native_twin(copy, directory.parent / "other", trust_remote_code=True)
        assert "theirs" in mark.read_text()


def test_files_that_no_config_of_ours_names_are_neither_read_nor_sent(directory):
    """A processor with code of its own, paths of files and names of classes in the tokenizer's config."""
    code, mark = marking(directory)
    (directory / "proc").mkdir()
    (directory / "proc/theirs.py").write_text(code)
    content = {"auto_map": {"AutoProcessor": "proc/theirs.Processor"}, "processor_class": "Processor"}
    (directory / "processor_config.json").write_text(json.dumps(content))
    secret = directory.parent / "secret.txt"
    secret.write_text("canary")
    paths = dict.fromkeys(("vocab_file", "tokenizer_file", "merges_file", "added_tokens_file"), str(secret))
    edit(directory / "tokenizer_config.json", tokenizer_class="os.system", processor_class="os.system", **paths)
    with staged(directory) as copy:
        assert not (copy / "processor_config.json").exists()
        assert foreign_code(copy) == []
        verify_loads_without_package(copy)
        twin = directory.parent / "twin"
        assert write_native_twin(copy, twin) == "LlamaForCausalLM"
    assert not [path for path in twin.rglob("*") if path.is_file() and b"canary" in path.read_bytes()]
    assert not mark.exists()


OTHERS = ("onnx/model.onnx", "eval/results.json", "scripts/run.py", "adapter_model.safetensors", "theirs.py")
OTHERS += ("adapter_config.json", "vocab.json", "README.md", "sub/config.json", "target_tokenizer/extra/tokenizer.json")
OURS = ("generation_config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors")
OURS += ("target_tokenizer/tokenizer.json", "chat_template.jinja", "configuration_scratch_bigram.py")


def test_only_what_a_push_of_ours_can_have_sent_is_replaced():
    assert [name for name in OTHERS if is_replaced(name)] == []
    assert [name for name in OURS if not is_replaced(name)] == []


def test_a_second_push_deletes_what_it_has_listed_and_nothing_else(directory, client, tmp_path):
    for name in ("generation_config.json", "README.md"):
        (directory / name).unlink(missing_ok=True)
    push_directory(directory, NAME)
    repository = client.repositories[NAME]
    there = {**repository.revisions["main"], **{name: b"x" for name in (*OTHERS, *OURS)}}
    repository.commit("main", there, "from elsewhere")
    asked = push(client, tmp_path / "home", str(directory), NAME)  # nobody answers the question
    assert asked.returncode == 1
    assert "Upload and delete these files?" in asked.stdout
    assert asked.stderr.endswith("nothing was done\n")
    listed = asked.stdout.partition("to be deleted from revision main")[2]
    assert sorted(re.findall(r"^│ (\S+) +│$", listed, re.MULTILINE)) == sorted(OURS)
    assert repository.revisions["main"] == there
    push_directory(directory, NAME, agreed=plan_push(directory, NAME))
    assert set(there) - set(repository.revisions["main"]) == set(OURS)


def test_a_repository_that_changes_after_the_question_is_left_as_it_is(directory, client):
    push_directory(directory, NAME)
    repository = client.repositories[NAME]
    agreed = plan_push(directory, NAME)
    assert agreed == Changes(repository.commits["main"], ())
    repository.commit("main", {**repository.revisions["main"], "chat_template.jinja": b"new"}, "from elsewhere")
    with pytest.raises(ScratchError, match="has changed since its files were listed"):
        push_directory(directory, NAME, agreed=agreed)
    listed = plan_push(directory, NAME)
    assert listed.deletions == ("chat_template.jinja",)
    repository.commit("main", {**repository.revisions["main"], "notes.txt": b"new"}, "from elsewhere")
    with pytest.raises(ScratchError, match="has changed since its files were listed"):
        push_directory(directory, NAME, agreed=listed)
    assert {"chat_template.jinja", "notes.txt"} <= set(repository.revisions["main"])
    push_directory(directory, NAME, agreed=plan_push(directory, NAME))
    assert "chat_template.jinja" not in repository.revisions["main"]


def test_a_push_whose_answer_was_lost_knows_its_own_commit(directory, client, monkeypatch):
    push_directory(directory, NAME)
    edit(directory / "config.json", extra=1)
    monkeypatch.setattr(upload, "_pause", lambda state: 0)
    client.weather = [Storm(f"POST /api/models/{NAME}/commit/main", "lost")]
    push_directory(directory, NAME, message="Second", agreed=plan_push(directory, NAME))
    assert client.repositories[NAME].titles == ["initial commit", "Upload model", "Second"]


class Elsewhere(BaseHTTPRequestHandler):
    """A host that writes down what it is sent."""

    def do_POST(self):
        self.server.told.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_PUT = do_GET = do_POST  # noqa: N815

    def log_message(self, *args): ...


@pytest.fixture
def elsewhere():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    server.told = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 302), ("127.0.0.1", 307), ("localhost", 308)])
@pytest.mark.parametrize("request_", ["POST /api/models/tester/theirs/commit", "PUT /lfs/", "POST /api/repos/create"])
def test_an_upload_is_not_sent_on_to_another_host(host, status, request_, directory, client, elsewhere):
    address = f"http://{host}:{elsewhere.server_address[1]}/take"
    client.weather = [Storm(request_, status, 9, {"Location": address})]
    with pytest.raises(ScratchError, match=f"redirects an upload to http://{host}:.* another host") as caught:
        push_directory(directory, NAME)
    assert not isinstance(caught.value, HubError)
    assert elsewhere.told == []
    assert len(str(caught.value).splitlines()) == 1


def test_redirects_of_downloads_and_within_the_hub_are_followed(directory, client, elsewhere):
    from huggingface_hub.utils import get_session

    push_directory(directory, NAME)
    away = f"http://127.0.0.1:{elsewhere.server_address[1]}/file"
    client.weather = [
        Storm("GET /away", 302, 1, {"Location": away}),
        Storm("POST /here", 307, 1, {"Location": f"{client.endpoint}/api/validate-yaml"}),
    ]
    assert get_session().get(f"{client.endpoint}/away").status_code == 200
    assert get_session().post(f"{client.endpoint}/here", content=b"{}").json() == {"errors": [], "warnings": []}


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
@pytest.mark.parametrize(
    "path", ["POST /api/models/tester/theirs/commit", "PUT /lfs/", "GET /api/models/tester/theirs"]
)
def test_no_header_ends_a_push(headers, path, directory, client, monkeypatch):
    """`"²".isdigit()` is true, and `int("²")` an error: here and in huggingface_hub, which sends large files."""
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    encoded = {name: value.encode().decode("latin-1") for name, value in headers.items()}
    client.weather = [Storm(path, 429, 1, encoded)]
    push_directory(directory, NAME)
    assert "model.safetensors" in client.repositories[NAME].revisions["main"]
    assert max(slept, default=0) <= upload.LONGEST_PAUSE + 1


@pytest.mark.parametrize("content", [b"[]", b"not JSON", b'{"sha": 5}', b"null"])
def test_an_answer_that_makes_no_sense_is_one_line(content, directory, client, monkeypatch):
    push_directory(directory, NAME)
    monkeypatch.setattr("loopback_hub.Handler.on_info", lambda self, **_: self.reply(content))
    with pytest.raises(HubError, match="can't be read") as caught:
        push_directory(directory, NAME)
    assert len(str(caught.value).splitlines()) == 1


def test_a_tokenizer_that_makes_megabytes_of_a_letter_is_refused_before_any_process_opens_it(directory, client):
    """The process that tries the model took all memory on them."""
    content = json.loads((directory / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Replace", "pattern": {"Regex": "a"}, "content": "a" * 1_000_000}
    (directory / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ScratchError, match="its normalizer may make 1e\\+06 characters of one, want at most 10,000"):
        check_sizes(directory)
    result = run_here("scratch-gpt", "push", str(directory), NAME, "--yes", check=False)
    assert result.returncode == 2
    assert not client.repositories


@pytest.mark.parametrize("name", ["[/x]/y", "a/b/c", "a\x1b[31m/b", "a b", ""])
def test_a_name_that_is_none_is_refused_in_one_line(name, directory):
    result = run_here("scratch-gpt", "push", str(directory), name, "--yes", check=False)
    assert result.returncode == 2
    assert "is no name of a repository, want 'user/model'" in result.stderr
    assert "\x1b" not in result.stderr


def test_markup_in_names_and_answers_is_printed_as_it_is(directory, hub, tmp_path):
    """A file's name could hide its row of the table that is asked about."""
    (directory / "[red]x[").mkdir()
    (directory / "[conceal]\x1b[8mhidden.py").write_text("pass\n")
    message = "[/x] \x1b[31mred"
    hub.weather = [Storm("POST /api/repos/create", 503, 9, {"X-Error-Message": message})]
    arguments = (str(directory), NAME, "--yes", "--trust_remote_code")
    environment = {**online(hub, tmp_path / "home"), "COLUMNS": "200", "FORCE_COLOR": "1", "TERM": "xterm"}
    result = run_command("push", *arguments, cwd=tmp_path, env=environment)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "[conceal]\\x1b[8mhidden.py" in result.stdout
    assert "not uploaded: [red]x[" in result.stdout
    assert "\x1b[8m" not in result.stdout
    assert "; trying again" in result.stderr
    assert redact(result.stderr) == result.stderr
