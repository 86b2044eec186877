"""Learning-rate schedules, as a fraction of the peak learning rate at each step."""

from __future__ import annotations

import math

from ..arguments.training import TrainingArguments


def learning_rate_factor(step: int, total_steps: int, args: TrainingArguments) -> float:
    """Fraction of the peak learning rate at `step`, counted from 0. A pure function: resuming needs no state."""
    if step < args.warmup_steps:
        return (step + 1) / args.warmup_steps
    if args.schedule == "inverse_sqrt":
        return (max(args.warmup_steps, 1) / (step + 1)) ** 0.5
    lowest = args.min_learning_rate_ratio
    progress = (step - args.warmup_steps) / max(total_steps - args.warmup_steps, 1)
    if args.schedule == "cosine":
        return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    if args.schedule == "wsd":
        return lowest + (1 - lowest) * min(
            1.0, max(0.0, total_steps - step) / max(args.decay_fraction * total_steps, 1)
        )
    return 1.0
