"""A tiny example file of each kind of data, which `scratch-gpt data --example KIND` writes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import ScratchError


@dataclass(frozen=True)
class Example:
    """An example file.

    Attributes:
        file: its name.
        family: the task that reads it, as of `scratch-gpt data --for`.
        content: its text.
        options: options that reading such a small file needs.
    """

    file: str
    family: str
    content: str
    options: dict[str, Any] = field(default_factory=dict)


def _json_lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


EXAMPLES = {
    "text": Example(
        "text.txt",
        "language_modeling",
        "A text file is one document, of which training holds out the end.\n\nLine ends are part of the text, and "
        "nothing is removed from it.\n\nA folder of text files has one document per file, and a table one per row.\n",
    ),
    "labelled": Example(
        "labelled.tsv",
        "classification",
        "text\tlabel\nA warm and funny film\tpositive\nI left after ten minutes\tnegative\n"
        "The best acting of the year\tpositive\nTwo hours of nothing\tnegative\n",
    ),
    "conversations": Example(
        "conversations.jsonl",
        "sft",
        _json_lines(
            _chat("What is the plural of knife?", "knives"),
            _chat("What is the plural of leaf?", "leaves"),
            _chat("Which animal says woof?", "A dog."),
            _chat("Say hello in German.", "Hallo!"),
        ),
    ),
    "preferences": Example(
        "preferences.jsonl",
        "dpo",
        _json_lines(
            {"prompt": "The capital of France is", "chosen": " Paris.", "rejected": " a city."},
            {"prompt": "Two and two is", "chosen": " four.", "rejected": " twenty-two."},
            {"prompt": "A dog says", "chosen": " woof.", "rejected": " meow."},
            {"prompt": "The sun is", "chosen": " a star.", "rejected": " the moon."},
        ),
    ),
    "prompts": Example(
        "prompts.txt",
        "policy_gradient",
        "One day, Anna\nIn the morning, Oscar\nThe old miller\nBehind the river,\n",
        {"validation_prompts": 1},
    ),
    "pairs": Example(
        "pairs.tsv",
        "translation",
        "de\ten\nDas Kind schläft.\tThe child sleeps.\nDer Mann lacht.\tThe man laughs.\n"
        "Die Tür ist offen.\tThe door is open.\nIch sehe den Fluss.\tI see the river.\n",
    ),
}


def write_example(kind: str, folder: Path) -> Path:
    """Write the example file of a kind.

    Args:
        kind: one of `EXAMPLES`.
        folder: an existing folder.

    Raises:
        ScratchError: the file exists already.
    """
    path = folder / EXAMPLES[kind].file
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(EXAMPLES[kind].content)
    except FileExistsError:
        raise ScratchError(f"{path} already exists: remove it, or change to another folder") from None
    return path


def example_hint(kind: str) -> str:
    """The end of an error about missing columns: where to see a file that has them."""
    return f"'scratch-gpt data --example {kind}' writes an example"
