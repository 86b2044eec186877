"""Exponential moving average (EMA) of the weights, which often evaluates better than the weights of the last step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class MovingAverage:
    """Exponential moving average of a model's parameters (Polyak and Juditsky 1992; Vaswani et al. 2017 average
    checkpoints for the same purpose).

    Args:
        model: the prepared model. If its parameters are sharded, so is the average.
        decay: decay rate per step; in the first steps it is smaller, so that the initial weights lose their influence.
    """

    def __init__(self, model: torch.nn.Module, decay: float):
        self.decay = decay
        self.means = [parameter.detach().clone() for parameter in model.parameters()]

    @torch.no_grad()
    def update(self, model: torch.nn.Module, step: int) -> None:
        """Update the average with the current weights, after step `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.means, [parameter.detach() for parameter in model.parameters()], 1 - decay)

    @contextmanager
    def swapped_in(self, model: torch.nn.Module) -> Iterator[None]:
        """Context in which the model has the averaged weights."""
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
