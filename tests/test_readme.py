"""Run every command and Python example of the README, shortened, in a temporary folder."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.processes import PROJECT, run_here

from scratch_gpt.train.engine.parsing import parse_arguments
from scratch_gpt.train.tasks import recipe_of

README = (PROJECT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BASH = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines()]
SHELL = ("mkdir", "cat", "cp")


def is_run(command: str) -> bool:
    """Whether the test runs a command: not installations, nor the push, which tests/hub/test_hub.py runs."""
    return command.startswith(SHELL) or (command.startswith("scratch-gpt") and "push" not in command)


COMMANDS = [command for command in (line.split("&& ")[-1] for line in BASH) if is_run(command)]
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.S)
TINY_GPT = "--max_steps 4 --num_stories 300 --hidden_size 32 --num_hidden_layers 1 --context_length 32 --batch_size 2"
TINY_RESUMED = "--allow_changed_settings --max_steps 6"
TINY_TRANSLATOR = "--max_steps 4 --num_pairs 300 --hidden_size 32 --encoder_layers 1 --decoder_layers 1"
TINY_POLICY = "--max_steps 2 --num_prompts 40 --validation_prompts 4 --prompts_per_rollout 4 --max_new_tokens 4"
CONVERSATION = {"prompt": "Hi?", "completion": "Yes."}
SENTENCES = ("ein Hund läuft in den Garten\n" * 40, "a dog runs into the garden\n" * 40)


def shortened(command: str, data: dict[str, Path]) -> str:
    """A command with data for its placeholders, and with arguments that make it take seconds.

    Args:
        command: as in the README.
        data: file or folder for each placeholder, such as "PATH".
    """
    for placeholder, path in data.items():
        command = command.replace(placeholder, str(path))
    command = command.replace("re:glad|happy|proud", "re:e")
    family = command.removeprefix("scratch-gpt train ").split()[0] if command.startswith("scratch-gpt train ") else None
    if family is None:
        return _shortened_use(command)
    if "multi30k_one" in command or "--config sst2" in command:
        return f"{command} --max_steps 4"
    if family == "translation":
        small = TINY_TRANSLATOR + (" --vocab_size 280 --num_attention_heads 2" if "multi30k" in command else "")
        return f"{command} {TINY_RESUMED if '--resume' in command else small}"
    if family == "policy_gradient":
        return f"{command} {TINY_POLICY}"
    if family == "dpo":
        return f"{command} --max_steps 2 --validation_fraction 0.5"
    if family == "sft":
        return f"{command} --max_steps 4 --validation_fraction 0.2 --num_questions 200"
    if family in ("classification", "masked_lm"):
        return f"{command} --max_steps 4 {'' if '--init_from' in command else '--hidden_size 32 --num_hidden_layers 1'}"
    small = "--max_steps 6 --num_stories 300" if "--init_from" in command else TINY_GPT
    return f"{command} {TINY_RESUMED if '--resume' in command else small}"


def _shortened_use(command: str) -> str:
    """A command that does not train, with arguments that make it take seconds."""
    if "learn ladder" in command:
        return f"{command} --seeds 1 --steps 1"
    if command.startswith("scratch-gpt judge"):
        return f"{command} --num_prompts 60"
    if command.startswith("scratch-gpt pairs"):
        return f"{command} --num_prompts 60 --samples 128 --batch_size 512"
    return f"{command} --num_pairs 20" if "evaluate runs/german" in command else command


def small_data(folder: Path) -> dict[str, Path]:
    """Write a small dataset for each placeholder of the README's commands."""
    sources = sorted((PROJECT / "scratch_gpt" / "models").glob("*.py"))
    text = folder / "text.txt"
    text.write_text("".join(path.read_text() for path in sources))
    pairs, table = folder / "pairs", folder / "corpus"
    pairs.mkdir()
    table.mkdir()
    for split in ("train", "val"):
        for language, side in zip(("de", "en"), SENTENCES, strict=True):
            (pairs / f"{split}.{language}").write_text(side)
    rows = [json.dumps({"text": line, "id": i}) for i, line in enumerate(README.splitlines())]
    (table / "rows.jsonl").write_text("\n".join(rows))
    labelled = folder / "reviews.tsv"
    labelled.write_text("a fine film\t1\na dull film\t0\n" * 30)
    conversations = folder / "conversations.jsonl"
    conversations.write_text("\n".join([json.dumps(CONVERSATION)] * 20))
    return {
        "HUB_ID": table,
        "PATH": text,
        "TABLE": labelled,
        "CONVERSATIONS": conversations,
        "FOLDER": pairs,
        "SENTENCES": pairs / "val.de",
    }


@pytest.mark.slow
def test_commands_and_examples_run_as_printed(tmp_path):
    data = small_data(tmp_path)
    (tmp_path / "README.md").symlink_to(PROJECT / "README.md")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def run(command: list[str]) -> None:
        """`scratch-gpt` in this process, which saves the imports; anything else in a new one."""
        if command[0] == "scratch-gpt":
            run_here(*command, cwd=tmp_path)
            return
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, f"{shlex.join(command)}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"

    assert len(COMMANDS) >= 75
    for command in COMMANDS:
        command = shortened(command, data)
        run(shlex.split(command) if command.split()[0] not in SHELL else ["bash", "-c", command])
    script = str(PROJECT / "training" / "language_modeling.py")
    run(["accelerate", "launch", script, *TINY_GPT.split(), "--output_dir", "runs/launched"])
    tiny = "max_steps=4, num_stories=300, hidden_size=32, num_hidden_layers=1, context_length=32, batch_size=2)"
    examples = [re.sub(r"(?<=^train\()(.*)\)$", rf"\1, {tiny}", example, flags=re.M) for example in EXAMPLES]
    assert len(examples) == 6
    assert sum(tiny in example for example in examples) == 1
    run([sys.executable, "-c", f"for example in {examples!r}: exec(example, {{}})"])


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("scratch-gpt train ")])
def test_training_commands_parse(command):
    """Families, options and built-in configurations exist, without training."""
    _, _, family, *arguments = shlex.split(command)
    if "--help" not in arguments:
        parse_arguments(recipe_of(family).arguments, "", arguments)


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README.md", "CONTRIBUTING.md"])
def test_named_files_exist(text):
    """Every path with a folder, from the repository or the package, and the files of the table of the code."""
    paths = re.findall(r"(?<![\w/])((?:\w+/)+\w+\.(?:py|md|png|toml))\b", text)
    for files in re.findall(r"^\| (`scratch_gpt/[^|]*) \|", text, re.M):
        folder, *names = re.findall(r"`([\w./]+)`", files)
        paths += [folder, *(folder + name for name in names if not name.startswith("scratch_gpt/"))]
    assert len(paths) > 15
    invented = re.compile("FAMILY|denoising|cli/parameters")
    missing = [p for p in paths if not ((PROJECT / p).exists() or (PROJECT / "scratch_gpt" / p).exists())]
    assert [path for path in missing if not invented.search(path)] == []


def test_first_and_test_command_are_marked():
    assert re.search(r"<!-- run-command -->\n```bash\n.*scratch-gpt train language_modeling\n```\n<!-- end -->", README)
    assert re.search(r"<!-- test-command -->\n```bash\n.*pytest.*\n```\n<!-- end -->", README)
