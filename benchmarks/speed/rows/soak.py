"""A long run: whether its memory stays flat."""

import time

import numpy as np

from benchmarks.speed.contestant import breadth
from benchmarks.speed.plan import Plan
from benchmarks.speed.result import Row

SAMPLE_S = 5.0
"""Seconds between two measurements of memory."""
WARM_UP = 0.2
"""Share of the run that is left out: caches and arenas fill."""


def measure(plan: Plan) -> list[Row]:
    """Train at lag 1 for `plan.soak_minutes`, and measure the memory of all processes at intervals."""
    minutes = 0.1 if plan.quick else plan.soak_minutes
    if not minutes:
        return [_row(reason="make bench runs none; python -m benchmarks.speed --rows soak --soak-minutes 100 does")]
    samples: list[tuple[float, float]] = []
    contestant = breadth(plan, "soak", "lag=1")
    with contestant:
        contestant.start(2)
        contestant.tree.proceed()
        start = time.monotonic()
        while (now := time.monotonic() - start) < 60 * minutes:
            assert contestant.process.poll() is None, f"the run ended after {now:.0f} s, see {contestant.log}"
            samples.append((now, contestant.tree.memory_mb()))
            time.sleep(1.0 if plan.quick else SAMPLE_S)
        steps = len(contestant.records())
    later = [(at, memory) for at, memory in samples if at >= WARM_UP * 60 * minutes]
    first, last = _half(later, 0), _half(later, 1)
    at, memory = np.array(later).T
    slope = np.polyfit(at / 3600, memory, 1)[0]
    note = f"{minutes:g} minutes, {steps} steps, {slope:+.0f} MB an hour by a straight line through all samples"
    return [_row(ours=(last,), other=(first,), note=note)]


def _half(samples: list[tuple[float, float]], half: int) -> float:
    """Return the median memory of the first or the second half of the samples, in MB."""
    cut = len(samples) // 2
    return float(np.median([memory for _, memory in (samples[cut:] if half else samples[:cut])]))


def _row(**values: object) -> Row:
    return Row(
        name="soak/memory",
        title="memory of all processes in a long run at lag 1, second half beside the first",
        unit="MB",
        other_name="first half",
        higher_is_better=False,
        goal=1.02,
        **values,  # type: ignore[arg-type]
    )
