"""Dropout: in training, each number is set to zero with probability p and the others grow by 1 / (1 - p).

So the sum keeps its expectation, and no unit can rely on another (Srivastava et al. 2014,
jmlr.org/papers/v15/srivastava14a.html).
"""

import torch
from torch import nn
from torch.nn import functional as F

STEPS = 1 << 16  # p is rounded to a multiple of 1 / STEPS on the CPU


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, drawn four times as fast on the CPU, where one random draw makes four 16-bit numbers."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return input
        if input.device.type != "cpu":
            return F.dropout(input, self.p)
        # Not `random_`, which compiled code has no place for; the one number that is never drawn is 1 in 2^64.
        draws = torch.randint(-(2**63), 2**63 - 1, (-(-input.numel() // 4),), dtype=torch.int64)
        numbers = draws.view(torch.int16)[: input.numel()].view(input.shape)  # uniform from -STEPS/2 to STEPS/2 - 1
        dropped = round(self.p * STEPS)
        return input * ((numbers >= dropped - STEPS // 2) * (STEPS / (STEPS - dropped))).to(input.dtype)
