"""The counters of the training loop, which a checkpoint holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .task import DataState


@dataclass
class TrainingState:
    """Counters of the training loop, saved in every checkpoint.

    Attributes:
        step: optimizer steps taken.
        tokens: tokens scored in training; texts or pairs, if the loss is a mean of these.
        seconds: time spent in steps.
        data: position in the training data.
        best_metric: best value of `--metric_for_best_model`; None before the first finite one.
        best_step: step of the published model.
        evaluations_since_best: evaluations since that value.
        stopped_early: whether `--early_stopping_patience` was exhausted.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    data: DataState = field(default_factory=DataState)
    best_metric: float | None = None
    best_step: int = 0
    evaluations_since_best: int = 0
    stopped_early: bool = False


def check_state(state: TrainingState) -> None:
    """Check the types and ranges of the counters of a checkpoint.

    Raises:
        ValueError: a field of `TrainingState` has a wrong type, or a number is negative or not finite.
    """
    data = state.data
    counts = [state.step, state.tokens, state.best_step, state.evaluations_since_best, data.epoch, data.row]
    if not all(isinstance(count, int) and 0 <= count < 2**53 for count in counts):
        raise ValueError(f"its counters are {counts}, want integers of at least 0")
    numbers = (state.seconds, state.best_metric or 0.0)
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise ValueError(f"its numbers are {numbers}, want finite ones")
    if not isinstance(state.stopped_early, bool):
        raise ValueError(f"its stopped_early is {state.stopped_early!r}, want true or false")
