"""Commands and Python calls of the documentation with small data for their placeholders, and arguments that make them
take seconds."""

import ast
import json
import shlex
from pathlib import Path

from helpers.processes import PROJECT

TINY_GPT = "--max_steps 4 --num_stories 300 --hidden_size 32 --num_hidden_layers 1 --context_length 32 --batch_size 2"
TINY_RESUMED = "--allow_changed_settings --max_steps 6"
TINY_TRANSLATOR = "--max_steps 4 --num_pairs 120 --num_beams 1 --hidden_size 32 --encoder_layers 1 --decoder_layers 1"
TINY_POLICY = "--max_steps 2 --num_prompts 40 --validation_prompts 4 --prompts_per_rollout 4 --max_new_tokens 4"
CONVERSATION = {"prompt": "Hi?", "completion": "Yes."}
PREFERENCE = {"prompt": "Hi?", "chosen": " Yes.", "rejected": " No."}
SENTENCES = ("ein Hund läuft in den Garten\n" * 40, "a dog runs into the garden\n" * 40)
PRICE = "re:glad|happy|proud"  # a reward that the samples of a tiny model never have


def small_data(folder: Path) -> dict[str, str]:
    """Write a small dataset for each placeholder of the commands, and return their paths. The tutorials call the text
    `input.txt`, its name where it is downloaded."""
    sources = sorted((PROJECT / "scratch_gpt" / "models").glob("*.py"))
    pairs, table = folder / "pairs", folder / "corpus"
    pairs.mkdir(parents=True)
    table.mkdir()
    for split in ("train", "val"):
        for language, side in zip(("de", "en"), SENTENCES, strict=True):
            (pairs / f"{split}.{language}").write_text(side)
    lines = (PROJECT / "SECURITY.md").read_text(encoding="utf-8").splitlines()
    files = {
        "PATH": (folder / "text.txt", "".join(path.read_text(encoding="utf-8") for path in sources)[:60_000]),
        "TABLE": (folder / "reviews.tsv", "a fine film\t1\na dull film\t0\n" * 30),
        "CONVERSATIONS": (folder / "conversations.jsonl", "\n".join([json.dumps(CONVERSATION)] * 20)),
        "PREFERENCES": (folder / "preferences.jsonl", "\n".join([json.dumps(PREFERENCE)] * 20)),
    }
    rows = [json.dumps({"text": line, "id": i}) for i, line in enumerate(lines * 4)]
    (table / "rows.jsonl").write_text("\n".join(rows))
    for path, text in files.values():
        path.write_text(text)
    paths = {name: path for name, (path, _) in files.items()}
    paths |= {"HUB_ID": table, "FOLDER": pairs, "SENTENCES": pairs / "val.de", "input.txt": paths["PATH"]}
    return {name: str(path) for name, path in paths.items()}


def filled(text: str, data: dict[str, str]) -> str:
    """A command or Python code with paths for its placeholders, and a reward that a tiny model can have."""
    for placeholder, path in data.items():
        text = text.replace(placeholder, path)
    return text.replace(PRICE, "re:e")


def shortened(command: str) -> str:
    """A command with arguments that make it take seconds."""
    words = command.split()
    if words[:2] == ["scratch-gpt", "train"]:
        family = next((word for word in words[2:] if not word.startswith("-")), None)
        return command if family is None or "--help" in words else f"{command} {tiny_arguments(family, command)}"
    if script := next((Path(word) for word in words if word.startswith("training/") and word.endswith(".py")), None):
        return f"{command} {tiny_arguments(script.stem, command)}"
    return _shortened_use(command)


def tiny_arguments(family: str, command: str) -> str:
    """Arguments of a task for a tiny run.

    Args:
        family: such as "translation".
        command: the command or Python call, whose own arguments decide between them.
    """
    if "multi30k_one" in command or "sst2" in command:
        return "--max_steps 4"
    if family == "translation":
        small = TINY_TRANSLATOR + (" --vocab_size 280 --num_attention_heads 2" if "multi30k" in command else "")
        return TINY_RESUMED if "--resume" in command else small
    if family == "policy_gradient":
        return TINY_POLICY
    if family == "dpo":
        return "--max_steps 2 --max_bad_rows 0.9 --validation_fraction 0.5"
    if family == "sft":
        return "--max_steps 4 --validation_fraction 0.2 --num_questions 200"
    if family in ("classification", "masked_lm"):
        return "--max_steps 4" + ("" if "init_from" in command else " --hidden_size 32 --num_hidden_layers 1")
    if "--resume" in command:
        return TINY_RESUMED
    return "--max_steps 6 --num_stories 300" if "init_from" in command else TINY_GPT


def _shortened_use(command: str) -> str:
    """A command that does not train, with arguments that make it take seconds."""
    if "learn ladder" in command:
        return f"{command} --seeds 1 --steps 1"
    if command.startswith("scratch-gpt judge"):
        return f"{command} --num_prompts 60"
    if command.startswith("scratch-gpt pairs"):
        return f"{command} --num_prompts 60 --samples 128 --batch_size 512"
    return f"{command} --num_pairs 20" if "evaluate runs/german" in command else command


class _TinyTraining(ast.NodeTransformer):
    """Add tiny arguments to the calls `train("family", ...)`."""

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        is_train = isinstance(node.func, ast.Name) and node.func.id == "train"
        if is_train and node.args and isinstance(node.args[0], ast.Constant):
            words = shlex.split(tiny_arguments(str(node.args[0].value), ast.unparse(node)))
            names = [word.removeprefix("--") for word in words if word.startswith("--")]
            values = [int(word) if word.isdigit() else float(word) for word in words if not word.startswith("--")]
            tiny = [ast.keyword(name, ast.Constant(value)) for name, value in zip(names, values, strict=True)]
            node.keywords = [keyword for keyword in node.keywords if keyword.arg not in names] + tiny
        return node


def shortened_python(code: str) -> str:
    """Python code whose training takes seconds; without training, the code as it is."""
    if "train(" not in code:
        return code
    return ast.unparse(_TinyTraining().visit(ast.parse(code)))
