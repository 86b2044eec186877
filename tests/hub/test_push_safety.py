"""A push uploads only files that it has verified, and runs only code that it has listed and was allowed to run."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from helpers.hub import connected_hub, hub_environment, push
from helpers.loopback_hub import TransientFault, running_hub
from helpers.models import save_tiny
from helpers.processes import run_command, run_here
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.push import check_sizes, verify_loads_without_package, write_native_twin
from scratch_gpt.hub.staging import files_to_upload, foreign_code, staged
from scratch_gpt.redaction import redact

NAME = "tester/model"


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


def edit_json(path: Path, **fields) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def code_with_marker(folder: Path) -> tuple[str, Path]:
    """Code that writes a marker file when it runs, and the path of that file."""
    marker = folder.parent / "ran"
    return f"open({str(marker)!r}, 'a').write(__name__)\n", marker


def test_staged_directory_holds_exactly_the_uploaded_files_and_is_removed(directory):
    code, _ = code_with_marker(directory)
    for name in ("custom_generate/generate.py", "sub/model.safetensors", "modelx.safetensors", "notes.txt", "a.bin"):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(code)
    save_file({"a": torch.ones(1)}, directory / "modelx.safetensors")
    uploaded = {path.relative_to(directory) for path in files_to_upload(directory)}
    with staged(directory) as copy:
        assert {path.relative_to(copy) for path in copy.rglob("*") if path.is_file()} == uploaded
        assert (copy / "model.safetensors").samefile(directory / "model.safetensors")  # a hard link, not a copy
        assert not (copy / "config.json").samefile(directory / "config.json")
        assert copy.name == directory.name
    assert {str(name) for name in uploaded} & {"modelx.safetensors", "notes.txt", "a.bin"} == set()
    assert [path.name for path in directory.parent.iterdir()] == ["model"]
    with pytest.raises(ScratchError, match=r"^no model") as caught, staged(directory) as copy:
        raise ScratchError(f"no model in {copy}")
    assert str(caught.value) == f"no model in {directory}"


@pytest.mark.slow
def test_custom_generate_is_neither_run_nor_uploaded(directory, hub, tmp_path):
    """Regression: it ran, without permission, in the process that verifies the model."""
    code, marker = code_with_marker(directory)
    (directory / "custom_generate").mkdir()
    (directory / "custom_generate/generate.py").write_text(f"{code}def generate(model, **more): return None\n")
    for trust in ((), ("--trust_remote_code",)):
        result = push(hub, tmp_path / "home", str(directory), NAME, "--yes", *trust)
        assert result.returncode == 0, result.stderr
        assert "not uploaded: custom_generate" in result.stdout
        assert not marker.exists()
    assert not [name for name in hub.repositories[NAME].revisions["main"] if "custom_generate" in name]


def test_pickled_weights_are_never_loaded(directory, fresh_verification):
    """Regression: verification loaded the pickle, while the safetensors file of another name was uploaded."""
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").rename(directory / "model_x.safetensors")
    with pytest.raises(ScratchError, match=r"want model\.safetensors in it, or an index"):
        files_to_upload(directory)
    with pytest.raises(ScratchError, match="does not load without this package"):
        verify_loads_without_package(directory, timeout=120)  # verification alone does not load the pickle either


def test_exactly_the_shards_in_the_index_are_uploaded(directory):
    model = AutoModelForCausalLM.from_pretrained(directory)
    (directory / "model.safetensors").unlink()
    model.save_pretrained(directory, max_shard_size="20KB")
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert len(shards) > 1
    shutil.copy(directory / min(shards), directory / "model-00009-of-00009.safetensors")
    uploaded = {path.name for path in files_to_upload(directory) if path.suffix == ".safetensors"}
    assert uploaded == shards
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


def link_to_outside(folder: Path) -> None:
    (folder.parent / "token").write_text("secret")
    (folder / "README.md").symlink_to(folder.parent / "token")


def adapter_config(folder: Path) -> None:
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(folder.parent / "elsewhere"), "r": 1}
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def adapter_pickle(folder: Path) -> None:
    torch.save({}, folder / "adapter_model.bin")


def pickle_named_in_config(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "other.bin")
    edit_json(folder / "config.json", transformers_weights="other.bin")


def foreign_pipeline(folder: Path) -> None:
    pipeline = {"impl": "theirs.Pipe", "pt": ["AutoModelForCausalLM"], "type": "text"}
    edit_json(folder / "config.json", custom_pipelines={"text-generation": pipeline})


def foreign_second_tokenizer(folder: Path) -> None:
    shutil.copytree(folder, folder / "target_tokenizer", ignore=lambda *_: ["model.safetensors"])
    edit_json(folder / "target_tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": [None, "theirs.Tokenizer"]})
    edit_json(folder / "config.json", target_tokenizer=True)


def modified_code(folder: Path) -> None:
    with (folder / "block.py").open("a") as file:
        file.write(code_with_marker(folder)[0])


def auto_map(reference: str, file: str = "config.json", key: str = "AutoConfig"):
    return lambda folder: edit_json(folder / file, auto_map={key: reference})


REJECTED = {  # case: (function that modifies the directory, part of the error)
    "named pipe as weights": (fifo, "named pipe"),
    "named pipe as code": (fifo_of_code, "more.py is a named pipe"),
    "link to outside": (link_to_outside, "README.md is a link to"),
    "adapter": (adapter_config, "adapter_config.json is of an adapter"),
    "pickled adapter": (adapter_pickle, "adapter_model.bin is of an adapter"),
    "pickle named in config": (pickle_named_in_config, "does not load without this package"),
    "foreign pipeline": (foreign_pipeline, "not this package's: theirs.Pipe, theirs.py"),
    "foreign second tokenizer": (foreign_second_tokenizer, "not this package's: theirs.Tokenizer, theirs.py"),
    "modified code": (modified_code, "not this package's: block.py"),
    "code in a subfolder": (auto_map("sub/theirs.Config"), "not this package's: sub/theirs.Config"),
    "code in another repository": (
        auto_map("who/else--theirs.Config"),
        "not this package's: theirs.py, who/else--theirs.Config",
    ),
    "tokenizer code": (
        auto_map("theirs.Tokenizer", "tokenizer_config.json", "AutoTokenizer"),
        "not this package's: theirs.Tokenizer, theirs.py",
    ),
    "huge model": (lambda folder: edit_json(folder / "config.json", hidden_size=10**9), "parameters or more"),
    "config is not an object": (lambda folder: (folder / "config.json").write_text("[]"), "config.json holds list"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_rejected_directory_runs_no_code_and_contacts_no_hub(case, directory, monkeypatch):
    modify, message = REJECTED[case]
    code, marker = code_with_marker(directory)
    if "theirs" in message:
        (directory / "theirs.py").write_text(code)
        (directory / "sub").mkdir()
        (directory / "sub/theirs.py").write_text(code)
    modify(directory)
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115
    result = run_here("scratch-gpt", "push", str(directory), NAME, "--yes", check=False)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not marker.exists()
    assert not [path for path in directory.parent.iterdir() if path.name.startswith(".push")]


@pytest.mark.slow
def test_code_of_the_second_tokenizer_runs_only_with_trust_remote_code(directory):
    """Also when a native twin is exported."""
    code, marker = code_with_marker(directory)
    tokenizer = "from transformers import PreTrainedTokenizerFast\nclass Tokenizer(PreTrainedTokenizerFast): pass\n"
    (directory / "theirs.py").write_text(code + tokenizer)
    foreign_second_tokenizer(directory)
    with staged(directory) as copy:
        assert foreign_code(copy) == ["theirs.Tokenizer", "theirs.py"]
        with suppress(ScratchError):  # it may load without that code
            write_native_twin(copy, directory.parent / "twin", trust_remote_code=False)
        assert not marker.exists()
        with suppress(ScratchError):  # a native twin may not need code
            write_native_twin(copy, directory.parent / "other", trust_remote_code=True)
        assert "theirs" in marker.read_text()


@pytest.mark.slow
def test_files_and_classes_named_by_a_processor_or_tokenizer_config_are_ignored(directory):
    """A processor with its own code; file paths and class names in the tokenizer's config."""
    code, marker = code_with_marker(directory)
    (directory / "proc").mkdir()
    (directory / "proc/theirs.py").write_text(code)
    content = {"auto_map": {"AutoProcessor": "proc/theirs.Processor"}, "processor_class": "Processor"}
    (directory / "processor_config.json").write_text(json.dumps(content))
    secret = directory.parent / "secret.txt"
    secret.write_text("canary")
    paths = dict.fromkeys(("vocab_file", "tokenizer_file", "merges_file", "added_tokens_file"), str(secret))
    edit_json(directory / "tokenizer_config.json", tokenizer_class="os.system", processor_class="os.system", **paths)
    with staged(directory) as copy:
        assert not (copy / "processor_config.json").exists()
        assert foreign_code(copy) == []
        verify_loads_without_package(copy)
        twin = directory.parent / "twin"
        assert write_native_twin(copy, twin).model_class.__name__ == "LlamaForCausalLM"
    assert not [path for path in twin.rglob("*") if path.is_file() and b"canary" in path.read_bytes()]
    assert not marker.exists()


def test_tokenizer_that_expands_a_character_to_megabytes_is_rejected_before_it_is_run(directory, monkeypatch):
    """Regression: the process that verifies the model ran out of memory."""
    content = json.loads((directory / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Replace", "pattern": {"Regex": "a"}, "content": "a" * 1_000_000}
    (directory / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ScratchError, match="its normalizer may expand one character to 1e\\+06, want at most 10,000"):
        check_sizes(directory)
    with connected_hub(monkeypatch) as hub:
        result = run_here("scratch-gpt", "push", str(directory), NAME, "--yes", check=False)
        assert result.returncode == 2
        assert not hub.requests


@pytest.mark.parametrize("name", ["[/x]/y", "a/b/c", "a\x1b[31m/b", "a b", ""])
def test_invalid_repository_name_is_rejected_in_one_line(name, directory):
    result = run_here("scratch-gpt", "push", str(directory), name, "--yes", check=False)
    assert result.returncode == 2
    assert "is not a valid repository name, expected 'user/model'" in result.stderr
    assert "\x1b" not in result.stderr


@pytest.mark.slow
def test_markup_and_escape_sequences_in_file_names_and_responses_are_escaped(directory, hub, tmp_path):
    """A file name could hide its row of the table of files to confirm."""
    (directory / "[red]x[").mkdir()
    (directory / "[conceal]\x1b[8mhidden.py").write_text("pass\n")
    message = "[/x] \x1b[31mred"
    hub.faults = [TransientFault("POST /api/repos/create", 503, 9, {"X-Error-Message": message})]
    arguments = (str(directory), NAME, "--yes", "--trust_remote_code")
    environment = {**hub_environment(hub, tmp_path / "home"), "COLUMNS": "200", "FORCE_COLOR": "1", "TERM": "xterm"}
    result = run_command("push", *arguments, cwd=tmp_path, env=environment)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "[conceal]\\x1b[8mhidden.py" in result.stdout
    assert "not uploaded: [red]x[" in result.stdout
    assert "\x1b[8m" not in result.stdout
    assert "; retrying" in result.stderr
    assert redact(result.stderr) == result.stderr
