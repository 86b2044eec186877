"""Dropout: in training, each element is set to zero with probability p and the others are multiplied by 1 / (1 - p).

The expectation is unchanged, and no unit can rely on the presence of another (Srivastava et al. 2014,
jmlr.org/papers/v15/srivastava14a.html).
"""

import torch
from torch import nn
from torch.nn import functional as F

LEVELS = 1 << 16  # on the CPU, p is rounded to a multiple of 1 / LEVELS


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, four times as fast on the CPU: one 64-bit random number yields four 16-bit numbers."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Apply dropout to a tensor of any shape; in evaluation mode, return it unchanged."""
        if not self.training or self.p == 0:
            return input
        if input.device.type != "cpu":
            return F.dropout(input, self.p)
        # `randint` and not `random_`, which torch.compile does not support; it never draws the largest of 2^64 numbers.
        random64 = torch.randint(-(2**63), 2**63 - 1, (-(-input.numel() // 4),), dtype=torch.int64)
        random16 = random64.view(torch.int16)[: input.numel()].view(input.shape)  # from -LEVELS/2 to LEVELS/2 - 1
        dropped = round(self.p * LEVELS)
        return input * ((random16 >= dropped - LEVELS // 2) * (LEVELS / (LEVELS - dropped))).to(input.dtype)
