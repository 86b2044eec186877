"""Sums over the processes of a distributed evaluation."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object


def sum_over_processes(accelerator: Accelerator, *numbers: float) -> list[float]:
    """Sum each number over all processes; every process must call it.

    Sums are computed in float64: integers are returned as integers, exact up to 2^53. Devices that may lack float64
    (MPS, XPU) exchange Python numbers.
    """
    if accelerator.num_processes == 1:
        return list(numbers)
    if accelerator.device.type in ("cpu", "cuda"):
        local = torch.tensor(numbers, dtype=torch.float64, device=accelerator.device)
        sums = accelerator.reduce(local, "sum").tolist()
    else:
        sums = [sum(values) for values in zip(*gather_object([numbers]), strict=True)]
    return [int(total) if isinstance(number, int) else total for number, total in zip(numbers, sums, strict=True)]
