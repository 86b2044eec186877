"""Sums over the processes of a distributed evaluation."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object


def sum_over_processes(accelerator: Accelerator | None, *numbers: float) -> list[float]:
    """Sum each number over all processes, all of which must call it; None: over this process alone.

    Sums are computed in float64: integers are returned as integers, exact up to 2^53. Devices that may lack float64
    (MPS, XPU) exchange Python numbers.
    """
    if accelerator is None or accelerator.num_processes == 1:
        return list(numbers)
    if accelerator.device.type in ("cpu", "cuda"):
        local = torch.tensor(numbers, dtype=torch.float64, device=accelerator.device)
        sums = accelerator.reduce(local, "sum").tolist()
    else:
        sums = [sum(values) for values in zip(*gather_object([numbers]), strict=True)]
    return [int(total) if isinstance(number, int) else total for number, total in zip(numbers, sums, strict=True)]


def sum_named_over_processes(accelerator: Accelerator, sums: dict[str, float]) -> dict[str, float]:
    """Sum numbers of the same name over all processes, all of which must call it; a process may lack some of them."""
    parts = gather_object([sums]) if accelerator.num_processes > 1 else [sums]
    names = sorted({name for part in parts for name in part})
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}
