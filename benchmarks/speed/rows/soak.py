"""A long run: whether its memory stays flat."""

import time

import numpy as np

from benchmarks.speed.contestant import breadth
from benchmarks.speed.plan import Plan
from benchmarks.speed.processes import ROLES
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
    samples: list[tuple[float, dict[str, float]]] = []
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
    halves = later[: len(later) // 2], later[len(later) // 2 :]
    first, last = (float(np.median([sum(memory.values()) for _, memory in half])) for half in halves)
    slopes = {role: _slope([(at, memory.get(role, 0.0)) for at, memory in later]) for role in ROLES}
    roles = ", ".join(f"{role} {slope:+.1f}" for role, slope in slopes.items())
    note = f"{minutes:g} minutes, {steps} steps; MB an hour by straight lines: {roles}"
    return [_row(ours=(last,), other=(first,), note=note)]


def _slope(samples: list[tuple[float, float]]) -> float:
    """Return the slope of a straight line through (seconds, MB), in MB an hour."""
    at, memory = np.array(samples).T
    return float(np.polyfit(at / 3600, memory, 1)[0])


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
