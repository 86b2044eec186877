"""Code in a checkpoint: no command prompts for trust, and without the option no code runs."""

import ast
import json
import shutil
from pathlib import Path

import pytest
from helpers.hub import run_in_terminal
from helpers.models import save_tiny
from helpers.processes import PROJECT, run_here

from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.loading import load_model, open_tokenizer
from scratch_gpt.models.compatibility import RELEASE


@pytest.fixture
def foreign(tmp_path):
    """A model directory whose config and tokenizer refer to code that creates a file when it runs."""
    folder = save_tiny(tmp_path / "foreign")
    for path in folder.glob("*.py"):
        path.unlink()
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write('')\n")
    classes = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": [None, "evil.Fast"]}
    for name, fields in (
        ("config.json", {"model_type": "theirs", "auto_map": classes}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "evil.Fast"]}, "tokenizer_class": "Theirs"}),
    ):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**settings, **fields}))
    return folder


TERMINAL = {
    "tokenizer encode": "tokenizer encode foreign abc",
    "tokenizer compare": "tokenizer compare abc foreign",
    "generate": "generate foreign --prompt abc",
    "push": "push foreign user/name",
    "export": "export foreign out",
    "judge": "judge plain --reward foreign --dataset prompts.txt --max_new_tokens 2",
}


@pytest.mark.slow
@pytest.mark.parametrize("command", TERMINAL)
def test_no_command_prompts_for_trust_or_runs_code(command, foreign, tmp_path):
    save_tiny(tmp_path / "plain")
    (tmp_path / "prompts.txt").write_text("a\n")
    code, printed = run_in_terminal(*TERMINAL[command].split(), cwd=tmp_path)
    assert not (tmp_path / "ran").exists(), printed
    assert "[y/N]" not in printed
    assert "Do you wish to run" not in printed
    assert code == 2, printed
    assert "Traceback" not in printed
    errors = [line for line in printed.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, printed


def test_a_plain_tokenizer_of_a_foreign_model_opens_without_its_code(foreign, tmp_path):
    shutil.copy(save_tiny(tmp_path / "plain") / "tokenizer_config.json", foreign)
    code, printed = run_in_terminal("tokenizer", "encode", "foreign", "a b", cwd=tmp_path)
    assert code == 0, printed
    assert "4 tokens" in printed  # <bos> and three characters
    assert not (tmp_path / "ran").exists()


def test_our_tokenizer_opens_without_a_prompt_or_warning(tmp_path):
    save_tiny(tmp_path / "ours")
    code, printed = run_in_terminal("tokenizer", "encode", "ours", "a b", cwd=tmp_path)
    assert code == 0, printed
    assert "4 tokens" in printed
    assert "[transformers]" not in printed


def test_our_directories_open_without_trust(tmp_path):
    folder = save_tiny(tmp_path / "ours")
    assert "auto_map" in json.loads((folder / "config.json").read_text())
    assert load_model(folder, trust_remote_code=False).num_parameters() > 0
    assert len(open_tokenizer(str(folder), trust_remote_code=False)) > 0


def test_the_tokenizers_code_is_named_before_it_runs(foreign, capsys, tmp_path):
    with pytest.raises(ScratchError, match="no folder or Hub id that opens"):
        open_tokenizer(str(foreign), trust_remote_code=True)
    assert (tmp_path / "ran").exists()
    assert f"running code from {foreign}: evil.Fast" in capsys.readouterr().err


@pytest.mark.skipif(RELEASE < (5, 5), reason="transformers before 5.5 does not run the tokenizer's code here")
def test_a_command_passes_trust_remote_code_to_the_tokenizer(foreign, tmp_path):
    shutil.copy(save_tiny(tmp_path / "plain") / "config.json", foreign)
    command = ("generate", str(foreign), "--prompt", "a b")
    run_here("scratch-gpt", *command, check=False)
    assert not (tmp_path / "ran").exists()
    run_here("scratch-gpt", *command, "--trust_remote_code", check=False)
    assert (tmp_path / "ran").exists()


def loading_calls(path: Path) -> list[ast.Call]:
    """Calls that open a checkpoint by its name. `PeftModel.from_pretrained` gets a base model that is open."""
    names = {"from_pretrained", "pipeline", "get_class_from_dynamic_module"}
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    calls = [call for call in calls if not ast.unparse(call.func).startswith("PeftModel.")]
    return [call for call in calls if getattr(call.func, "attr", getattr(call.func, "id", None)) in names]


def test_every_loading_call_passes_trust_remote_code():
    """Without the argument, transformers asks at a terminal, and runs the code on a "y"."""
    found = 0
    for path in sorted((PROJECT / "scratch_gpt").rglob("*.py")):
        for call in loading_calls(path):
            found += 1
            given = {keyword.arg for keyword in call.keywords}
            assert "trust_remote_code" in given, f"{path.relative_to(PROJECT)}:{call.lineno}"
    assert found > 15
