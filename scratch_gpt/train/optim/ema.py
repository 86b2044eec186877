"""A moving average of the weights: smoother than where the last steps happened to lead, and often better."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class MovingAverage:
    """The exponential moving average of a model's parameters (Polyak and Juditsky 1992; in the form of Vaswani et al.
    2017, who average checkpoints, it has the same purpose).

    Args:
        model: the prepared model. Its parameters may be sharded; so is then the average.
        decay: share that the average keeps at each step; smaller in the first steps, so that it soon forgets them.
    """

    def __init__(self, model: torch.nn.Module, decay: float):
        self.decay = decay
        self.means = [parameter.detach().clone() for parameter in model.parameters()]

    @torch.no_grad()
    def update(self, model: torch.nn.Module, step: int) -> None:
        """Move towards the present weights, after step number `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.means, [parameter.detach() for parameter in model.parameters()], 1 - decay)

    @contextmanager
    def swapped_in(self, model: torch.nn.Module) -> Iterator[None]:
        """Inside, the model holds the average, and this the model's own weights."""
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    @torch.no_grad()
    def _exchange(self, model: torch.nn.Module) -> None:
        for mean, parameter in zip(self.means, model.parameters(), strict=True):
            own = parameter.detach().clone()
            parameter.copy_(mean)
            mean.copy_(own)
