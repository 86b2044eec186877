"""The engine of a page, run by Node: one process for all tests, which loads a model for each job."""

import atexit
import base64
import functools
import json
import select
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.processes import PROJECT
from scratch_gpt.see.payload import ModelPayload, WeightType, payload_of

RUNNER = PROJECT / "tests" / "see" / "run_engine.mjs"
ENGINE = PROJECT / "scratch_gpt" / "see" / "web" / "engine"
TIMEOUT = 120  # seconds
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="the engine of a page runs in Node here, which is not installed")

Call = dict[str, Any]  # "method" of run_engine.mjs, and its arguments


def mostly_slow(cases: Any, fast: Any) -> list[Any]:
    """Parameters of a test of which only a few cases run with the fast tests; a tuple has several parameters."""
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [
        pytest.param(*one, marks=[] if case in fast else pytest.mark.slow)
        for case, one in zip(cases, values, strict=True)
    ]


class EngineError(Exception):
    """What the engine threw."""


@functools.cache
def _process() -> subprocess.Popen:
    """The Node process, which ends with the tests."""
    command = [str(NODE), str(RUNNER), str(ENGINE)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    atexit.register(_end, process)
    return process


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


def _ask(request: str) -> str:
    """The line that Node answers a line with.

    Raises:
        EngineError: Node ended, or did not answer in time.
    """
    process = _process()
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(request + "\n")
    process.stdin.flush()
    answered, _, _ = select.select([process.stdout], [], [], TIMEOUT)
    answer = process.stdout.readline() if answered else ""
    if not answer:
        _process.cache_clear()
        _end(process)
        raise EngineError(process.stderr.read() or f"no answer in {TIMEOUT} seconds")
    return answer


def run_engine(model: Any, calls: list[Call], dtype: WeightType = "float32") -> list[Any]:
    """The results of calls of the engine for one model, or for none; arguments as of `run_jobs`."""
    return run_jobs([(model, dtype, calls)])[0]


def run_jobs(jobs: list[tuple[Any, WeightType, list[Call]]]) -> list[list[Any]]:
    """The results of the calls of each job; arrays of float32 are flat tensors.

    Args:
        jobs: each a model, a payload or None, the data type of its weights in the page, and calls.

    Raises:
        EngineError: a call failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        requests = []
        for number, (model, dtype, calls) in enumerate(jobs):
            content, weights = _payload(model, dtype)
            path = Path(folder, str(number))
            path.write_bytes(weights)
            requests.append({"content": content, "weights": str(path), "calls": calls})
        answer = _ask(json.dumps(requests))
    return [[_result(outcome) for outcome in job] for job in json.loads(answer, object_hook=_tensor)]


def _payload(model: Any, dtype: WeightType) -> tuple[Any, bytes]:
    if model is None:
        return None, b""
    return model if isinstance(model, ModelPayload) else payload_of(model, None, "model", dtype)


def _result(outcome: dict[str, Any]) -> Any:
    if "error" in outcome:
        raise EngineError(outcome["error"])
    return outcome.get("result")


def _tensor(value: dict[str, Any]) -> Any:
    if set(value) != {"float32"}:
        return value
    return torch.from_numpy(np.frombuffer(base64.b64decode(value["float32"]), dtype="<f4").copy())


def in_float16(model: Any) -> Any:
    """Round the weights of a model to float16, in place; it still computes in float32."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(tensor.half().float())
    return model


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Assert that a flat tensor of the engine is equal to one of torch up to an absolute difference, and that there is
    something to compare."""
    assert expected.numel() > 1
    assert expected.std() > 1e-3
    torch.testing.assert_close(actual.view(expected.shape), expected, atol=tolerance, rtol=0)
