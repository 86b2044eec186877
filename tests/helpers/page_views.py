"""Pure functions of the page's views, run by one process of Node."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from helpers.page_engine import NODE
from helpers.processes import PROJECT

RUNNER = PROJECT / "tests" / "see" / "run_views.mjs"
VIEWS = PROJECT / "scratch_gpt" / "see" / "web" / "view"


@contextmanager
def view_caller() -> Iterator[Callable[..., list[Any]]]:
    """A function that returns the results of calls, each a module, the name of a function or constant in it, and
    arguments; tensors are passed flat, as float32, and returned as lists."""
    with subprocess.Popen([str(NODE), str(RUNNER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as node:
        assert node.stdin is not None
        assert node.stdout is not None
        stdin, stdout = node.stdin, node.stdout

        def call_views(*calls: tuple[Any, ...]) -> list[Any]:
            request = [
                {"module": str(VIEWS / f"{module}.js"), "name": name, "arguments": rest}
                for module, name, *rest in calls
            ]
            stdin.write(json.dumps(request, default=_float32) + "\n")
            stdin.flush()
            answer = json.loads(stdout.readline(), object_hook=_list)
            assert "error" not in answer, answer["error"]
            return answer["results"]

        yield call_views
        stdin.close()


def _float32(value: torch.Tensor) -> dict[str, list[float | None]]:
    numbers = value.float().flatten().tolist()
    return {"float32": [None if number == float("-inf") else number for number in numbers]}


def _list(found: dict[str, Any]) -> Any:
    return found["float32"] if set(found) == {"float32"} else found
