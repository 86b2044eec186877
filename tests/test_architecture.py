"""Rules of the package, checked on its source: the direction of imports, and what is saved with a checkpoint."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.processes import PROJECT, run_python

from scratch_gpt.auto import FAMILIES
from scratch_gpt.models import compatibility

PACKAGE = PROJECT / "scratch_gpt"
MODEL_FILES = sorted((PACKAGE / "models").glob("*.py"))
ALLOWED_IN_MODEL_FILES = {"torch", "transformers", "huggingface_hub", *sys.stdlib_module_names}
SHARED_MODULES = {
    "errors",
    "cache",
    "redaction",
    "terminal",
    "untrusted",
    "atomic_files",
    "hardware",
    "metrics",
    "not_found",
}
# The folders that each folder may import, besides itself and the shared modules.
MAY_IMPORT = {
    "models": set(),
    "tokenization": set(),
    "data": {"tokenization"},
    "evaluation": {"data", "models", "tokenization"},
    "hub": {"models", "tokenization", "data"},
    "rl": {"tokenization", "data", "hub"},
    "see": {"models", "tokenization", "hub", "evaluation"},
    "train": {"models", "tokenization", "data", "evaluation", "hub", "rl", "see"},
    "foundations": {"models", "data", "train"},
}


def imports(path: Path) -> list[tuple[int, str]]:
    """Every import of a file as (level, dotted name)."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
    return found


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: path.name)
def test_model_files_import_only_files_saved_with_a_checkpoint(path):
    siblings = {sibling.stem for sibling in MODEL_FILES}
    for level, name in imports(path):
        if level == 0:
            assert name.split(".")[0] in ALLOWED_IN_MODEL_FILES - {"__future__"}, name
        else:
            assert level == 1, name
            assert name in siblings, name
    assert "\nclass " not in path.read_text() or path.name != "__init__.py"


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_direction_of_imports(folder):
    for path in (PACKAGE / folder).rglob("*.py"):
        for level, name in imports(path):
            if level == len(path.relative_to(PACKAGE / folder).parts) + 1:
                target = name.split(".")[0]
                assert target in MAY_IMPORT[folder] | SHARED_MODULES, f"{path.name} imports {name}"
            assert not (level == 0 and name.startswith("scratch_gpt")), f"{path.name} imports {name}"


def test_data_and_tokenization_do_not_import_models():
    for folder in ("data", "tokenization"):
        for path in (PACKAGE / folder).rglob("*.py"):
            assert not [name for _, name in imports(path) if "models" in name.split(".") or "torch.nn" in name]


def test_files_are_short_and_have_docstrings():
    for path in [*PACKAGE.rglob("*.py"), *(PROJECT / "training").rglob("*.py")]:
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path
        assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


def test_import_registers_the_models_and_loads_no_large_package():
    script = (
        "import sys, scratch_gpt\n"
        "from transformers import AutoConfig\n"
        "assert AutoConfig.for_model('scratch_gpt').hidden_size == 768\n"
        "large = {'datasets', 'matplotlib', 'scratch_gpt.train', 'scratch_gpt.data'}\n"
        "print(sorted(large & set(sys.modules)))"
    )
    assert run_python("-c", script, cwd=PROJECT, fresh=True).stdout.strip() == "[]"


def test_minimum_transformers_version_is_the_same_everywhere():
    """In pip's requirements, the package, the model files and the model card."""
    oldest = ".".join(map(str, compatibility.OLDEST))
    for name in ("pyproject.toml", "scratch_gpt/__init__.py", "model_card.md"):
        assert set(re.findall(r"transformers>=([\d.]+)", (PROJECT / name).read_text())) == {oldest}, name


def test_unsupported_transformers_version_is_a_one_line_error():
    script = (
        "import importlib.metadata as m\n"
        "version = m.version\n"
        "m.version = lambda name: '4.57.1' if name == 'transformers' else version(name)\n"
        "import scratch_gpt"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT)
    assert result.returncode == 1
    assert "needs transformers>=5.0 and found 4.57.1: pip install" in result.stderr.strip().splitlines()[-1]


@pytest.mark.skipif(compatibility.RELEASE < (5, 4), reason="transformers before 5.4 lacks names of later releases")
def test_a_newer_transformers_warns_once_and_runs():
    """In a process where transformers says that it is a release that does not exist yet."""
    script = (
        "import transformers\n"
        "transformers.__version__ = '7.1.0'\n"
        "import scratch_gpt\n"
        "from scratch_gpt.models import compatibility, modeling_scratch_gpt, modeling_scratch_encoder\n"
        "model = scratch_gpt.ScratchGPTForCausalLM(scratch_gpt.ScratchGPTConfig(vocab_size=9, hidden_size=8, "
        "num_attention_heads=2, num_hidden_layers=1, eos_token_id=None))\n"
        "import torch; print(model.generate(torch.tensor([[1, 2]]), max_new_tokens=2, do_sample=False).shape)"
    )
    result = run_python("-c", script, cwd=PROJECT, fresh=True)
    assert result.stdout.strip().endswith("torch.Size([1, 4])")
    newest = ".".join(map(str, compatibility.NEWEST))
    assert result.stderr.count(f"to {newest}, and this is 7.1.0: if something fails, install one of those") == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_file_names_all_files_that_it_needs(family):
    """Releases of transformers before 5.10 copy only the files that the file of the model class names."""

    def siblings(name: str) -> set[str]:
        return set(re.findall(r"^\s*from \.(\w+) import", (PACKAGE / "models" / f"{name}.py").read_text(), re.M))

    for name in (f"configuration_{family}", f"modeling_{family}"):
        named = siblings(name)
        assert set().union(*map(siblings, named)) <= named, name


# Folders whose parts are ordered: a part imports those before it, and none after it.
ORDER = {
    "data": ("splits", "corpora", "readers", "batching"),
    "hub": (
        *("directory_checks", "model_directory", "loading", "card_usage", "card"),
        *("native", "engines", "staging", "upload", "push"),
    ),
    "train": (
        *("arguments", "performance", "optim", "checkpoints", "engine", "tasks"),
        *("cost_estimate", "verify_run"),
    ),
}


def parts_imported(path: Path, folder: Path) -> set[str]:
    """The parts of `folder` that a file in it imports, by their names."""
    found = set()
    depth = len(path.relative_to(folder).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            found |= {(node.module or "").split(".")[0]} if node.module else {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("name", ORDER)
def test_parts_of_a_folder_import_those_before_them_only(name):
    folder, order = PACKAGE / name, ORDER[name]
    for path in folder.rglob("*.py"):
        part = path.relative_to(folder).parts[0].removesuffix(".py")
        if part in order:
            later = parts_imported(path, folder) & set(order[order.index(part) + 1 :])
            assert not later, f"{path.relative_to(PACKAGE)} imports {', '.join(later)}"


def test_train_has_at_most_eight_parts_on_its_first_level():
    parts = {path.stem for path in (PACKAGE / "train").iterdir() if path.suffix in ("", ".py")}
    assert parts - {"__init__", "__pycache__"} <= set(ORDER["train"])
    assert len(ORDER["train"]) <= 8


def test_families_of_tasks_import_no_other_family_but_the_one_they_extend():
    extends = {"sft": {"language_modeling"}, "distillation": {"language_modeling"}}
    tasks = PACKAGE / "train" / "tasks"
    families = {path.name for path in tasks.iterdir() if (path / "recipe.py").exists()}
    for family in families:
        for path in (tasks / family).glob("*.py"):
            assert parts_imported(path, tasks) & families <= extends.get(family, set()), path


def test_the_engine_knows_no_task():
    for part in ("arguments", "optim", "checkpoints", "performance", "engine"):
        for path in (PACKAGE / "train" / part).rglob("*.py"):
            assert "tasks" not in {name.split(".")[0] for _, name in imports(path)}, path
