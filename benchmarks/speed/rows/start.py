"""Seconds from the command to the first optimizer step, of Breadth and of TRL, in turns."""

import time

from benchmarks.speed.contestant import Contestant, breadth, trl
from benchmarks.speed.plan import IN_PROCESS, VLLM, Plan
from benchmarks.speed.result import Row
from benchmarks.speed.rows.rollouts import NO_TRL


def _seconds(contestant: Contestant) -> float:
    with contestant:
        first = contestant.start(1)
        print(f"    {contestant.name}: {first:.1f} s", flush=True)
        return first


def measure(plan: Plan) -> list[Row]:
    """Start each once per round; every process has ended before the next starts."""
    places: dict[str, tuple[str, tuple[str, ...]]] = {
        "ray": ("over Ray, default settings", ()),
        "vllm": ("over Ray and vLLM", VLLM),
        "in_process": ("in one process", IN_PROCESS),
    }
    if plan.quick:
        places = {"in_process": places["in_process"]}
    ours: dict[str, list[float]] = {name: [] for name in places}
    other: list[float] = []
    for number in range(plan.rounds):
        for name, (_, settings) in places.items():
            ours[name].append(_seconds(breadth(plan, f"start_{name}_{number}", *settings)))
            time.sleep(1.0)  # what is left of Ray's processes ends
        if plan.trl:
            other.append(_seconds(trl(plan, f"start_{number}")))
    return [
        Row(
            name=f"start/{name}",
            title=f"from the command to the first optimizer step, {words}",
            unit="s",
            ours=tuple(ours[name]),
            other_name="TRL",
            other=tuple(other),
            higher_is_better=False,
            goal=10.0,
            compares_ours=True,
            reason="" if other else NO_TRL,
        )
        for name, (words, _) in places.items()
    ]
