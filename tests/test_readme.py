"""Every command and Python example of the README runs as printed, shortened, in a folder of its own."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.processes import PROJECT, run_here

README = (PROJECT / "README.md").read_text()
BASH = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines()]
SHELL = ("mkdir", "cat", "cp")


def is_run(command: str) -> bool:
    """All but installations, and the push, which needs a Hub: test_hub.py runs it against one on this machine."""
    return (
        "training/" in command
        or command.startswith(SHELL)
        or (command.startswith("scratch-gpt") and "push" not in command)
    )


COMMANDS = [command for command in (line.split("&& ")[-1] for line in BASH) if is_run(command)]
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.S)
TINY = "--max_steps 4 --num_stories 300 --hidden_size 32 --num_hidden_layers 1 --context_length 32 --batch_size 2"


LONGER = "--allow_changed_settings --max_steps 6"
TINY_PAIRS = "--max_steps 4 --num_pairs 300 --hidden_size 32 --encoder_layers 1 --decoder_layers 1"
TALK = {"prompt": "Hi?", "completion": "Yes."}
PAIRS = ("ein Hund läuft in den Garten\n" * 40, "a dog runs into the garden\n" * 40)


def shortened(command: str, text: Path, table: Path, pairs: Path, labelled: Path, talks: Path) -> str:
    command = command.replace("HUB_ID", str(table)).replace("PATH", str(text)).replace("TABLE", str(labelled))
    command = (
        command.replace("CONVERSATIONS", str(talks))
        .replace("FOLDER", str(pairs))
        .replace("SENTENCES", str(pairs / "val.de"))
    )
    if "multi30k_one" in command:
        return f"{command} --max_steps 4"
    if "train_seq2seq" in command:
        small = TINY_PAIRS + (" --vocab_size 280 --num_attention_heads 2" if "multi30k" in command else "")
        return f"{command} {LONGER if '--resume' in command else small}"
    command = command.replace("re:glad|happy|proud", "re:e")
    if "finetune_ppo" in command:
        tiny = "--max_steps 2 --num_prompts 40 --validation_prompts 4 --prompts_per_rollout 4 --max_new_tokens 4"
        return f"{command} {tiny}"
    if "learn ladder" in command:
        return f"{command} --seeds 1 --steps 1"
    if command.startswith(("scratch-gpt judge", "scratch-gpt pairs")):
        return f"{command} --num_prompts 60 {'--samples 128 --batch_size 512' if 'pairs' in command else ''}"
    if "finetune_dpo" in command:
        return f"{command} --max_steps 2 --validation_fraction 0.5"
    if "finetune_sft" in command:
        return f"{command} --max_steps 4 --validation_fraction 0.2 --num_questions 200"
    if "sst2.yaml" in command:
        return f"{command} --max_steps 4"
    if "train_classifier" in command or "pretrain_encoder" in command:
        return f"{command} --max_steps 4 {'' if '--init_from' in command else '--hidden_size 32 --num_hidden_layers 1'}"
    if "pretrain_gpt" not in command:
        return f"{command} --num_pairs 20" if "evaluate runs/german" in command else command
    longer = "--max_steps 6 --num_stories 300" if "--init_from" in command else TINY
    return f"{command} {LONGER if '--resume' in command else longer}"


@pytest.mark.slow
def test_commands_and_examples_run_as_printed(tmp_path):
    text_file = tmp_path / "text.txt"
    sources = sorted((PROJECT / "scratch_gpt" / "models").glob("*.py"))
    text_file.write_text("".join(path.read_text() for path in sources))
    (tmp_path / "training").symlink_to(PROJECT / "training")
    (tmp_path / "README.md").symlink_to(PROJECT / "README.md")
    table = tmp_path / "corpus"
    table.mkdir()
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for split in ("train", "val"):
        for language, side in zip(("de", "en"), PAIRS, strict=True):
            (pairs / f"{split}.{language}").write_text(side)
    lines = [json.dumps({"text": line, "id": i}) for i, line in enumerate(README.splitlines())]
    (table / "rows.jsonl").write_text("\n".join(lines))
    labelled = tmp_path / "reviews.tsv"
    labelled.write_text("a fine film\t1\na dull film\t0\n" * 30)
    talks = tmp_path / "talks.jsonl"
    talks.write_text("\n".join([json.dumps(TALK)] * 20))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    launched = False

    def run(command: list[str]) -> None:
        """The first one through the launcher, the others in this process, which spares their imports."""
        nonlocal launched
        if launched and command[:2] == ["accelerate", "launch"]:
            command = command[2:]
        elif command[0] == "python":
            command = command[1:]
        launched |= command[0] == "accelerate"
        if command[0] == "scratch-gpt" or command[0].endswith(".py"):
            run_here(*command, cwd=tmp_path)
            return
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, f"{shlex.join(command)}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"

    assert len(COMMANDS) >= 68
    for command in COMMANDS:
        command = shortened(command, text_file, table, pairs, labelled, talks)
        run(shlex.split(command) if command.split()[0] not in SHELL else ["bash", "-c", command])
    assert len(EXAMPLES) == 5
    run([sys.executable, "-c", f"for example in {EXAMPLES!r}: exec(example, {{}})"])


def test_first_and_test_command_are_marked():
    assert re.search(r"<!-- run-command -->\n```bash\n.*scratch-gpt train language_modeling\n```\n<!-- end -->", README)
    assert re.search(r"<!-- test-command -->\n```bash\n.*pytest.*\n```\n<!-- end -->", README)
