"""Seconds from the command to the first optimizer step, of Breadth and of TRL, in turns."""

import time

from benchmarks.speed.contestant import Contestant, breadth, trl
from benchmarks.speed.plan import COUNTDOWN, Plan
from benchmarks.speed.result import Row
from benchmarks.speed.rows.rollouts import NO_TRL


def _seconds(contestant: Contestant) -> float:
    with contestant:
        first = contestant.start(1)
        print(f"    {contestant.name}: {first:.1f} s", flush=True)
        return first


def measure(plan: Plan) -> list[Row]:
    """Start each once per round; every process has ended before the next starts."""
    engines = ("transformers",) if plan.quick else ("vllm", "transformers")
    prompts, answers = (4, 4) if plan.quick else (32, 16)
    peer = {
        "policy": str(COUNTDOWN),
        "task": "countdown",
        "prompts": prompts,
        "answers": answers,
        "new_tokens": 16,
        "learning_rate": 3e-4,
    }
    ours: dict[str, list[float]] = {engine: [] for engine in engines}
    other: list[float] = []
    for number in range(plan.rounds):
        for engine in engines:
            ours[engine].append(_seconds(breadth(plan, f"start_{engine}_{number}", f"generator.engine={engine}")))
            time.sleep(1.0)  # what is left of Ray's processes ends
        if plan.trl:
            other.append(_seconds(trl(plan, f"start_{number}", peer)))
    return [
        Row(
            name=f"start/{engine}",
            title=f"from the command to the first optimizer step, {engine} engine",
            unit="s",
            ours=tuple(ours[engine]),
            other_name="TRL",
            other=tuple(other),
            higher_is_better=False,
            goal=10.0,
            compares_ours=True,
            reason="" if other else NO_TRL,
        )
        for engine in engines
    ]
