"""Learning rate as a pure function of the step: nothing to save, nothing to get wrong at a resume."""

from __future__ import annotations

import math

from harness.schema import TrainConfig


def learning_rate(train: TrainConfig, step: int) -> float:
    """Rate used in optimisation step ``step`` (from 0).

    ``cosine``: ``lr (1 + cos(pi s / S)) / 2`` with ``S`` steps in all; ``linear``: ``lr (1 - s / S)``; both after a linear
    warm-up of ``lr_warmup_steps``, which counts into ``S``.
    """
    if step < train.lr_warmup_steps:
        return train.lr * (step + 1) / train.lr_warmup_steps
    progress = step / train.steps
    if train.schedule == "cosine":
        return 0.5 * train.lr * (1 + math.cos(math.pi * progress))
    if train.schedule == "linear":
        return train.lr * (1 - progress)
    return train.lr
