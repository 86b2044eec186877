"""The states of the random generators of Python, NumPy and PyTorch, on the CPU and the accelerator."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch


def generator_module(device: torch.device) -> ModuleType | None:
    """The module of PyTorch with the random generator of a device, such as `torch.cuda`, `torch.mps` or `torch.xpu`;
    None for the CPU, whose generator is the default one."""
    return None if device.type == "cpu" else torch.get_device_module(device)


def get_random_state(device: torch.device) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Return the random states of this process.

    Returns:
        The states of Python and NumPy, in a form that JSON can hold, with the type of the device; and those of PyTorch:
        of the CPU and, if there is an accelerator, of the device.
    """
    generators = [torch.get_rng_state()]
    module = generator_module(device)
    if module is not None:
        generators.append(module.get_rng_state(device))
    name, keys, *rest = np.random.get_state()
    numpy_state = [name, np.asarray(keys).tolist(), *rest]
    return {"device": device.type, "python": random.getstate(), "numpy": numpy_state}, generators


def set_random_state(state: dict[str, Any], generators: list[torch.Tensor], device: torch.device) -> None:
    """Restore the random states that `get_random_state` returned. The state of a device of another type is ignored,
    since generators of different devices are unrelated."""
    torch.set_rng_state(generators[0])
    module = generator_module(device)
    if module is not None and len(generators) > 1 and state.get("device", "cuda") == device.type:
        module.set_rng_state(generators[1], device)
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state(tuple(state["numpy"]))


@contextmanager
def forked_random_state(device: torch.device) -> Iterator[None]:
    """Context after which the generators of PyTorch, on the CPU and the device, are restored to their states before."""
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type="cuda" if device.type == "cpu" else device.type):
        yield
