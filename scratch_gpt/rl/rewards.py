"""What is rewarded: a pattern, a Python function, or the judgement of a classifier. All of them look the same:

    reward(prompts=["One day, Anna"], completions=[" sings."]) -> [1.0]

which is also how TRL's trainers call theirs, where prompts are plain text.
"""

from __future__ import annotations

import importlib
import math
import numbers
import os
import re
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from ..errors import ScratchError
from ..hub.loading import load_model, open_tokenizer
from ..hub.model_directory import kind_of_model
from ..untrusted import bounded

Reward = Callable[..., Sequence[float]]

PATTERN, SHOWN, TEXTS_AT_ONCE = "re:", 60, 64
PATTERN_SECONDS = 1.0  # that a search in one completion may take


def open_reward(
    name: str,
    trust_remote_code: bool = False,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | Literal["auto"] = torch.float32,
) -> Reward:
    """The reward that `name` asks for.

    Args:
        name: `re:PATTERN`, which gives 1 where the regular expression is found in a completion, else 0;
            `MODULE:FUNCTION` or `FILE.py:FUNCTION`, a Python function as above; or a folder or Hub id of a text
            classifier, `MODEL` or `MODEL#LABEL`, which gives the probability of the label (by default, the last).
        trust_remote_code: whether to run the code that a classifier brings.
        device, dtype: of the classifier's weights; the dtype "auto" takes that of the checkpoint.

    Raises:
        ScratchError: there is no such thing, and what was looked for.
    """
    if name.startswith(PATTERN):
        return pattern_reward(name.removeprefix(PATTERN))
    if is_function(name):
        return _function(name)
    return classifier_reward(name, trust_remote_code, device, dtype)


def pattern_reward(pattern: str) -> Reward:
    """1 where a regular expression is found in a completion, else 0.

    Raises:
        ScratchError: it is none; the reward itself raises one where a search takes more than a second.
    """
    try:
        with bounded("compiling it", PATTERN_SECONDS):
            expression = re.compile(pattern)
    except (ValueError, re.error, RecursionError, OverflowError, MemoryError) as error:
        raise ScratchError(f"reward {PATTERN}{pattern:.{SHOWN}} is no regular expression: {error}") from error

    def reward(prompts: list[Any], completions: list[str], **_: Any) -> list[float]:
        return [float(found(text)) for text in completions]

    def found(text: str) -> bool:
        # Nested repetitions may take a time that is exponential in the length of the text.
        with bounded(f"the search for {pattern:.{SHOWN}} in one completion", PATTERN_SECONDS):
            return expression.search(text) is not None

    return reward


def is_function(name: str) -> bool:
    """Whether a name asks for a Python function, which is code that runs."""
    module, _, function = name.rpartition(":")
    return not name.startswith(PATTERN) and bool(module) and function.isidentifier()


def _function(name: str) -> Reward:
    """A function of a file, which may import its neighbours, or of a module, also of the working directory."""
    module, _, function = name.rpartition(":")
    is_file = module.endswith(".py")
    beside = str(Path(module).resolve().parent) if is_file else os.getcwd()
    sys.path.insert(0, beside)
    try:
        found = runpy.run_path(module)[function] if is_file else getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:  # a module may raise anything
        raise ScratchError(f"reward {name} can't be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(beside)
    if not callable(found):
        raise ScratchError(f"reward {name} is a {type(found).__name__}, want a function of prompts and completions")
    return found


def classifier_reward(
    name: str, trust_remote_code: bool, device: str | torch.device, dtype: torch.dtype | Literal["auto"] = torch.float32
) -> Reward:
    """The probability that a classifier gives to a label of the completion; what a reward model, which has one label
    only, says of it."""
    folder, _, label = name.partition("#")
    try:
        model: Any = load_model(folder, trust_remote_code, device=device, dtype=dtype)
        tokenizer = open_tokenizer(folder, trust_remote_code=trust_remote_code, needs_end=False)
        if kind_of_model(model.config) != "classifier":
            raise ValueError(f"{folder} is a {type(model).__name__}, which knows no labels")
    except (OSError, ValueError) as error:
        raise ScratchError(
            f"reward {name!r} is no {PATTERN}PATTERN, no MODULE:FUNCTION, and no classifier that opens: {error}"
        ) from error
    labels = model.config.label2id
    if label and label not in labels:
        raise ScratchError(f"reward {name!r} asks for the label {label!r}, {folder} knows {', '.join(labels)}")
    index = int(labels[label]) if label else len(labels) - 1
    independent = model.config.problem_type == "multi_label_classification"
    model.eval()

    def reward(prompts: list[Any], completions: list[str], **_: Any) -> list[float]:
        given: list[float] = []
        for at in range(0, len(completions), TEXTS_AT_ONCE):
            texts = [text or " " for text in completions[at : at + TEXTS_AT_ONCE]]
            inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(device)
            with torch.no_grad():
                logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
            if len(labels) > 1:  # else the one number is a reward as it is
                logits = logits.float().sigmoid() if independent else logits.float().softmax(dim=-1)
            given += logits[:, index].tolist()
        return given

    return reward


def judge(reward: Reward, prompts: list[Any], completions: list[str]) -> list[float]:
    """Ask a reward, and check what it says.

    Raises:
        ScratchError: it raises, or gives anything but one finite number for each completion; the first completion
            where it does is named.
    """
    if not completions:  # a process without any
        return []
    try:
        given = reward(prompts=prompts, completions=completions)
    except ScratchError:
        raise  # says itself what is wrong
    except Exception as error:  # a user's function may raise anything
        which = _first_that_raises(reward, prompts, completions)
        raise ScratchError(f"the reward raised {type(error).__name__}: {error}; {which}") from error
    if isinstance(given, torch.Tensor) or hasattr(given, "tolist"):
        given = given.tolist()
    if not isinstance(given, list | tuple) or len(given) != len(completions):
        seen = f"{len(given)} numbers" if isinstance(given, list | tuple) else f"{type(given).__name__} {given!r:.40}"
        raise ScratchError(
            f"the reward gave {seen} for {len(completions)} completions, want a list with one number for each; the "
            f"first is {_shown(prompts[0], completions[0])}"
        )
    given = [value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value for value in given]
    for number, value in enumerate(given):
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise ScratchError(
                f"the reward gave {type(value).__name__} {value!r:.40} for completion {number}, want a finite number: "
                f"{_shown(prompts[number], completions[number])}"
            )
    return [float(value) for value in given]


def _first_that_raises(reward: Reward, prompts: list[Any], completions: list[str]) -> str:
    for number, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        try:
            reward(prompts=[prompt], completions=[completion])
        except Exception:
            return f"the first completion where it does is number {number}: {_shown(prompt, completion)}"
    return "each completion alone is no problem for it"


def _shown(prompt: Any, completion: str) -> str:
    asked = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    cut = [text if len(text) <= SHOWN else f"{text[:SHOWN]}…" for text in (asked, completion)]
    return f"{cut[1]!r} after {cut[0]!r}"
