"""The engine of a page, run by Node: one process for each model and list of calls."""

import base64
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.processes import PROJECT

from scratch_gpt.see.payload import WeightType, payload_of

RUNNER = PROJECT / "tests" / "see" / "run_engine.mjs"
ENGINE = PROJECT / "scratch_gpt" / "see" / "web" / "engine"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="the engine of a page is tested by Node, which is not installed")


class EngineError(Exception):
    """What the engine threw."""


def run_engine(model: Any, calls: list[dict[str, Any]], dtype: WeightType = "float32") -> list[Any]:
    """The results of calls of the engine for a model, each a dict with "method" and arguments (see run_engine.mjs);
    arrays of float32 are tensors, flat.

    Raises:
        EngineError: one of them failed.
    """
    content, weights = payload_of(model, None, "model", dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights")
        path.write_bytes(weights)
        request = {"engine": str(ENGINE), "content": content, "weights": str(path), "calls": calls}
        command = [str(NODE), str(RUNNER)]
        done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise EngineError(done.stderr)
    results = json.loads(done.stdout, object_hook=_tensor)
    for result in results:
        if "error" in result:
            raise EngineError(result["error"])
    return [result["result"] for result in results]


def _tensor(value: dict[str, Any]) -> Any:
    if set(value) != {"float32"}:
        return value
    return torch.from_numpy(np.frombuffer(base64.b64decode(value["float32"]), dtype="<f4").copy())


def in_float16(model: Any) -> Any:
    """Round the weights of a model to float16, in place; it still computes in float32."""
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(tensor.half().float())
    return model
