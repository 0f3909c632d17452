"""Learning-rate schedule of the policy."""

import math

from configs.learner import LearnerConfig


def learning_rate(config: LearnerConfig, update: int, total: int) -> float:
    """Return the learning rate of one optimizer update: 0 during `frozen_updates`, then a linear warm-up, then the
    schedule, which reaches 0 after the last update. With extragradient the second of two updates has the rate of the
    first.

    Args:
        update: number of the update, from 0.
        total: updates of the whole run.
    """
    if config.extragradient:
        update -= update % 2
    update, total = update - config.frozen_updates, total - config.frozen_updates
    if update < 0:
        return 0.0
    if update < config.warmup_steps:
        return config.learning_rate * (update + 1) / config.warmup_steps
    done = (update - config.warmup_steps) / max(1, total - config.warmup_steps)
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    if config.schedule == "linear":
        return config.learning_rate * max(0.0, 1 - done)
    return config.learning_rate
