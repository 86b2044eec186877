"""The states of random generators: Python's, NumPy's, torch's on the processor, and that of the accelerator."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch


def generator_module(device: torch.device) -> ModuleType | None:
    """torch's module with the random generator of a device, such as `torch.cuda`, `torch.mps` or `torch.xpu`; None for
    the processor, whose generator is torch's own."""
    return None if device.type == "cpu" else torch.get_device_module(device)


def get_random_state(device: torch.device) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Random states of this process.

    Returns:
        Those of Python and NumPy, as numbers fit for JSON, with the type of the device; and those of torch: of the
        processor and, if there is another, of the device.
    """
    generators = [torch.get_rng_state()]
    module = generator_module(device)
    if module is not None:
        generators.append(module.get_rng_state(device))
    name, keys, *rest = np.random.get_state()
    numpy_state = [name, np.asarray(keys).tolist(), *rest]
    return {"device": device.type, "python": random.getstate(), "numpy": numpy_state}, generators


def set_random_state(state: dict[str, Any], generators: list[torch.Tensor], device: torch.device) -> None:
    """Go on from what `get_random_state` returned. The state of another type of device is left out: generators of
    different devices have nothing in common."""
    torch.set_rng_state(generators[0])
    module = generator_module(device)
    if module is not None and len(generators) > 1 and state.get("device", "cuda") == device.type:
        module.set_rng_state(generators[1], device)
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state(tuple(state["numpy"]))


@contextmanager
def forked_random_state(device: torch.device) -> Iterator[None]:
    """Inside, torch may be seeded and draw; afterwards its generators, that of the device included, are as before."""
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type="cuda" if device.type == "cpu" else device.type):
        yield
