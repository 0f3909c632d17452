"""Reward functions with the signature of TRL, which Breadth accepts too: slow, stuck, and indifferent to the policy."""

import itertools
import os
import time
from pathlib import Path
from typing import Any

CALL_S = 0.05
"""Seconds of one call of a verifier that waits, for example for a service."""
QUICK_ANSWERS = 8
"""Answers that a process judges before one that it never judges."""
JUDGED = itertools.count()
STUCK = "BREADTH_BENCHMARK_STUCK"
"""Environment variable with the folder in which `never_returns` notes the steps that have their stuck answer."""


def waits(completions: list[str], **columns: Any) -> list[float]:
    """Reward answers that hold an addition, after a wait of CALL_S for each."""
    time.sleep(CALL_S * len(completions))
    return [float("+" in text) for text in completions]


def never_returns(completions: list[str], trainer_state: Any, **columns: Any) -> list[float]:
    """Reward answers that hold an addition. One answer of each step is never judged."""
    for _ in completions:
        # Not the first answers of a process: the first call of a function may load a model, and has longer.
        if next(JUDGED) >= QUICK_ANSWERS and _is_first(trainer_state.global_step):
            while True:
                time.sleep(3600)
    return [float("+" in text) for text in completions]


def _is_first(step: int) -> bool:
    try:
        os.close(os.open(Path(os.environ[STUCK]) / f"step-{step}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def odd(completions: list[str], **columns: Any) -> list[float]:
    """Reward half of all answers, whatever policy wrote them: those whose characters have an odd sum."""
    return [float(sum(map(ord, text)) % 2) for text in completions]
