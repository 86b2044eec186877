"""The wheel as it is installed by someone who has no checkout: in an empty environment, with nothing but its
dependencies."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.hub import hub_environment
from helpers.loopback_hub import running_hub
from helpers.processes import PROJECT

pytestmark = pytest.mark.slow
TINY = ("--max_steps", "4", "--num_stories", "300", "--hidden_size", "32", "--num_hidden_layers", "1")
TINY += ("--context_length", "32", "--batch_size", "2", "--num_threads", "1", "--output_dir", "run")


def run(*command, cwd: Path, environment: dict[str, str], status: int = 0) -> subprocess.CompletedProcess:
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500)
    assert result.returncode == status, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    return result


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder))
    run(*build, str(PROJECT), cwd=folder, environment=dict(os.environ))
    (path,) = folder.glob("scratch_gpt-*.whl")
    return path


def test_the_package_index_accepts_its_metadata(wheel):
    """Also the README, which the index renders."""
    command = (sys.executable, "-m", "twine", "check", "--strict", str(wheel))
    assert "PASSED" in run(*command, cwd=wheel.parent, environment=dict(os.environ)).stdout


@pytest.mark.timeout(900)
def test_it_works_in_an_empty_environment(wheel, tmp_path):
    """Train with a built-in configuration, generate, write the page, push with the template of the card; and what
    needs an extra says so."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or each command compiles PyTorch, which pip leaves out below
    run(sys.executable, "-m", "venv", "empty", cwd=tmp_path, environment=environment)
    programs = tmp_path / "empty" / "bin"
    pip = (str(programs / "python"), "-m", "pip", "install", "-q", "--no-compile", "--disable-pip-version-check")
    run(*pip, str(wheel), cwd=tmp_path, environment=environment)
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    environment["SCRATCH_GPT_CACHE"] = str(tmp_path / "cache")

    def command(*arguments: str, status: int = 0, **more: str) -> subprocess.CompletedProcess:
        together = {**environment, **more}
        return run("scratch-gpt", *arguments, cwd=tmp_path, environment=together, status=status)

    where = "import scratch_gpt; print(scratch_gpt.__file__)"
    imported = run("python", "-c", where, cwd=tmp_path, environment=environment).stdout
    assert Path(imported.strip()).is_relative_to(tmp_path)
    assert (Path(imported.strip()).parent / "py.typed").is_file()
    command("train", "language_modeling", *TINY)
    assert command("generate", "run", "--prompt", "One day", "--max_new_tokens", "4").stdout.strip()
    command("see", "run", "--output", "page.html")
    assert "window.model" in (tmp_path / "page.html").read_text()
    with running_hub() as hub:
        at_hub = hub_environment(hub, tmp_path / "home")
        more = {name: at_hub[name] for name in at_hub if name.startswith(("HF_", "NO_PROXY"))}
        command("push", "run", "tester/model", "--yes", **more)
        (repository,) = hub.repositories.values()
        assert {"README.md", "config.json", "model.safetensors"} <= set(repository.files("main"))
    refused = command("train", "translation", "--config", "german_grammar", "--output_dir", "german", status=2)
    assert "sacrebleu is not installed: pip install" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "german").exists()
    listed = run("python", "-m", "pip", "list", "--format", "json", cwd=tmp_path, environment=environment)
    names = {package["name"] for package in json.loads(listed.stdout)}
    assert len(names) <= 65, sorted(names)  # 59 in November 2026
    assert not names & {"sacrebleu", "onnxruntime", "peft", "pytest", "mkdocs"}
