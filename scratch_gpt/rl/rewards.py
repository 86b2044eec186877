"""Reward functions: a regular expression, a Python function, or a classifier. All have the same signature:

    reward(prompts=["One day, Anna"], completions=[" sings."]) -> [1.0]

which is also that of TRL's reward functions for plain-text prompts.
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
from ..hub.loading import load_model, match_padding, open_tokenizer
from ..hub.model_directory import kind_of_model
from ..untrusted import bounded

Reward = Callable[..., Sequence[float]]

PATTERN = "re:"
SHOWN = 60  # characters of a text in an error
BATCH_SIZE = 64  # texts per batch of a classifier
PATTERN_SECONDS = 1.0  # time limit of a search in one completion


def open_reward(
    name: str,
    trust_remote_code: bool = False,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | Literal["auto"] = torch.float32,
) -> Reward:
    """Open a reward function by name.

    Args:
        name: `re:PATTERN`, 1 if the regular expression matches anywhere in a completion, else 0; `MODULE:FUNCTION` or
            `FILE.py:FUNCTION`, a Python function with the signature above; or folder or Hub id of a text classifier,
            `MODEL` or `MODEL#LABEL`, the probability of the label (by default the last).
        trust_remote_code: whether to run code from the classifier's checkpoint.
        device: device of the classifier.
        dtype: data type of the classifier's weights; "auto" uses that of the checkpoint.

    Raises:
        ScratchError: the pattern is invalid, the function can't be imported, or the classifier can't be opened.
    """
    if name.startswith(PATTERN):
        return pattern_reward(name.removeprefix(PATTERN))
    if is_function(name):
        return _function(name)
    return classifier_reward(name, trust_remote_code, device, dtype)


def pattern_reward(pattern: str) -> Reward:
    """Return a reward function: 1 if a regular expression matches anywhere in a completion, else 0.

    Raises:
        ScratchError: the pattern is invalid; the reward function raises it if a search takes more than a second.
    """
    try:
        with bounded("compiling it", PATTERN_SECONDS):
            expression = re.compile(pattern)
    except (ValueError, re.error, RecursionError, OverflowError, MemoryError) as error:
        raise ScratchError(f"reward {PATTERN}{pattern:.{SHOWN}} is not a regular expression: {error}") from error

    def reward(prompts: list[Any], completions: list[str], **_: Any) -> list[float]:
        return [float(found(text)) for text in completions]

    def found(text: str) -> bool:
        # Nested repetitions can take time exponential in the length of the text.
        with bounded(f"the search for {pattern:.{SHOWN}} in one completion", PATTERN_SECONDS):
            return expression.search(text) is not None

    return reward


def is_function(name: str) -> bool:
    """Whether a name refers to a Python function, which is code that would run."""
    module, _, function = name.rpartition(":")
    return not name.startswith(PATTERN) and bool(module) and function.isidentifier()


def _function(name: str) -> Reward:
    """Import a function from a file, which may import modules from its folder, or from a module, which may be in the
    working directory."""
    module, _, function = name.rpartition(":")
    is_file = module.endswith(".py")
    folder = str(Path(module).resolve().parent) if is_file else os.getcwd()
    sys.path.insert(0, folder)
    try:
        found = runpy.run_path(module)[function] if is_file else getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:  # a module may raise anything
        raise ScratchError(f"reward {name} can't be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
    if not callable(found):
        raise ScratchError(f"reward {name} is a {type(found).__name__}, want a function of prompts and completions")
    return found


def classifier_reward(
    name: str, trust_remote_code: bool, device: str | torch.device, dtype: torch.dtype | Literal["auto"] = torch.float32
) -> Reward:
    """Return a reward function: the probability of a label for the completion or, for a model with a single label (a
    reward model), its raw output.

    Args:
        name: folder or Hub id of the classifier, or `MODEL#LABEL`; the default label is the last.
        trust_remote_code: whether to run code from the checkpoint.
        device: device of the classifier.
        dtype: data type of its weights; "auto" uses that of the checkpoint.

    Raises:
        ScratchError: the classifier can't be opened, or does not have the label.
    """
    folder, _, label = name.partition("#")
    try:
        model: Any = load_model(folder, trust_remote_code, device=device, dtype=dtype)
        tokenizer = open_tokenizer(folder, trust_remote_code=trust_remote_code, needs_end=False)
        match_padding(model, tokenizer)
        if kind_of_model(model.config) != "classifier":
            raise ValueError(f"{folder} is a {type(model).__name__}, which has no labels")
    except (OSError, ValueError) as error:
        raise ScratchError(
            f"reward {name!r} is not {PATTERN}PATTERN, not MODULE:FUNCTION, and not a classifier that opens: {error}"
        ) from error
    labels = model.config.label2id
    if label and label not in labels:
        raise ScratchError(f"reward {name!r} names the label {label!r}; {folder} has {', '.join(labels)}")
    index = int(labels[label]) if label else len(labels) - 1
    independent = model.config.problem_type == "multi_label_classification"
    model.eval()

    def reward(prompts: list[Any], completions: list[str], **_: Any) -> list[float]:
        rewards: list[float] = []
        for start in range(0, len(completions), BATCH_SIZE):
            texts = [text or " " for text in completions[start : start + BATCH_SIZE]]
            inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(device)
            with torch.no_grad():
                logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
            if len(labels) > 1:  # a reward model's single output is the reward
                logits = logits.float().sigmoid() if independent else logits.float().softmax(dim=-1)
            rewards += logits[:, index].tolist()
        return rewards

    return reward


def judge(reward: Reward, prompts: list[Any], completions: list[str]) -> list[float]:
    """Call a reward function and validate its result.

    Raises:
        ScratchError: the function raises, or does not return one finite number per completion; the error names the
            first completion for which it fails.
    """
    if not completions:  # a process may have none
        return []
    try:
        given = reward(prompts=prompts, completions=completions)
    except ScratchError:
        raise
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
    for index, value in enumerate(given):
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise ScratchError(
                f"the reward gave {type(value).__name__} {value!r:.40} for completion {index}, want a finite number: "
                f"{_shown(prompts[index], completions[index])}"
            )
    return [float(value) for value in given]


def _first_that_raises(reward: Reward, prompts: list[Any], completions: list[str]) -> str:
    for number, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        try:
            reward(prompts=[prompt], completions=[completion])
        except Exception:
            return f"the first completion for which it does is number {number}: {_shown(prompt, completion)}"
    return "it does not raise for any single completion"


def _shown(prompt: Any, completion: str) -> str:
    prompt_text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    truncated = [text if len(text) <= SHOWN else f"{text[:SHOWN]}…" for text in (prompt_text, completion)]
    return f"{truncated[1]!r} after {truncated[0]!r}"
