"""Pure functions of the page's views, run by Node."""

import json
import subprocess
from typing import Any

import torch

from helpers.page_engine import NODE
from helpers.processes import PROJECT

RUNNER = PROJECT / "tests" / "see" / "run_views.mjs"
VIEWS = PROJECT / "scratch_gpt" / "see" / "web" / "view"


def call_views(*calls: tuple[Any, ...]) -> list[Any]:
    """The results of calls, each a module, the name of a function or constant in it, and arguments; tensors are passed
    flat, as float32, and returned as lists."""
    request = [{"module": module, "name": name, "arguments": rest} for module, name, *rest in calls]
    text = json.dumps({"folder": str(VIEWS), "calls": request}, default=_float32)
    done = subprocess.run([str(NODE), str(RUNNER)], input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout, object_hook=lambda found: found["float32"] if set(found) == {"float32"} else found)


def _float32(value: torch.Tensor) -> dict[str, list[float | None]]:
    numbers = value.float().flatten().tolist()
    return {"float32": [None if number == float("-inf") else number for number in numbers]}
