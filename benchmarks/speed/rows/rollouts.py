"""Training steps beside TRL's GRPOTrainer: the same policy files, prompts, group size, batch, reward and float32."""

import statistics
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.speed.contestant import Turn, breadth, in_turns, peers
from benchmarks.speed.plan import Plan
from benchmarks.speed.processes import ROLES
from benchmarks.speed.result import Row

NO_TRL = "TRL is not installed (make bench installs it)"


def fastest_peer(turns: dict[str, list[Turn]]) -> list[Turn]:
    """Return the turns of TRL with the number of threads at which it is fastest; empty without TRL."""
    peers = [of_one for name, of_one in turns.items() if name.startswith("TRL")]
    return min(peers, key=lambda of_one: statistics.median(turn.step_s for turn in of_one), default=[])


def rates(turns: Sequence[Turn], answers: int) -> tuple[float, ...]:
    """Return answers per second of each turn."""
    return tuple(answers / turn.step_s for turn in turns)


def countdown(plan: Plan) -> list[Row]:
    """Rollouts per second of the committed Countdown policy, CPU seconds of each role, and overlap at lag 1."""
    places = {
        f"{engine}_lag{lag}": (f"generator.engine={engine}", f"lag={lag}")
        for engine in ("vllm", "transformers")
        for lag in (0, 1)
    }
    if plan.quick:
        places = {"transformers_lag0": ("lag=0",), "transformers_lag1": ("lag=1",)}
    contestants = [breadth(plan, name, *settings) for name, settings in places.items()]
    prompts, answers = (4, 4) if plan.quick else (32, 16)
    contestants += peers(plan, "countdown")
    turns = in_turns(contestants, plan.rounds, 0.5 if plan.quick else 8.0, least_steps=2)
    other = rates(fastest_peer(turns), prompts * answers)
    ours = {name: turns[f"breadth {name}"] for name in places}
    rows = [
        Row(
            name=f"rollouts/{name}",
            title=f"358k policy, {prompts} x {answers} answers of at most 16 tokens, {name.replace('_lag', ', lag ')}",
            unit="answers/s",
            ours=rates(of_one, prompts * answers),
            other_name="TRL",
            other=other,
            goal=2.0,
            reason="" if other else NO_TRL,
        )
        for name, of_one in ours.items()
    ]
    rows += [overlap(name, ours[f"{name}_lag0"], ours[f"{name}_lag1"]) for name in _engines(ours)]
    return rows + [row for name, of_one in ours.items() for row in cpu_rows(name, of_one)]


def _engines(ours: dict[str, list[Turn]]) -> list[str]:
    return [name.removesuffix("_lag1") for name in ours if name.endswith("_lag1")]


def overlap(engine: str, alone: Sequence[Turn], together: Sequence[Turn]) -> Row:
    """Compare a step at lag 1 with the longer of generation and update at lag 0, where they take turns."""
    longest = [max(turn.median("seconds/wait_generation"), turn.median("seconds/update")) for turn in alone]
    return Row(
        name=f"pipeline/{engine}",
        title=f"step at lag 1 / max(generate, update) at lag 0, {engine} engine",
        unit="s a step",
        ours=tuple(turn.step_s for turn in together),
        other_name="the longer of both alone",
        other=tuple(longest),
        higher_is_better=False,
        goal=1.10,
    )


def cpu_rows(name: str, turns: Sequence[Turn]) -> list[Row]:
    """Return the CPU seconds per step of each role."""
    return [
        Row(
            name=f"cpu/{name}/{role}",
            title=f"CPU seconds, {role}, {name.replace('_lag', ' engine, lag ')}",
            unit="s a step",
            ours=tuple(turn.cpu_seconds[role] / turn.steps for turn in turns),
            higher_is_better=False,
        )
        for role in ROLES
        if all(role in turn.cpu_seconds for turn in turns)
    ]


def smollm(plan: Plan) -> list[Row]:
    """Seconds a step of SmolLM2-135M on sums after four examples: long prompts, short answers."""
    missing = "runs/smollm/policy is not there (make runs/smollm/policy makes it)" if not plan.smollm else ""
    title = "SmolLM2-135M, four-shot sums, 8 x 8 answers, 53 + 5 tokens, lag 0"
    row = Row(
        name="rollouts/smollm",
        title=title,
        unit="s a step",
        other_name="TRL",
        inverse=True,
        goal=4.0,
        reason=missing or "left out of a quick benchmark",
    )
    if missing or plan.quick:
        return [row]
    settings = ("--config", "benchmarks/smollm/sums.yaml", f"policy.path={plan.smollm}")
    sizes = {"prompts": 8, "answers": 8, "new_tokens": 5, "learning_rate": 1e-5}
    contestants = [
        breadth(plan, "smollm", *settings, "policy.dtype=float32"),
        *peers(plan, "smollm", counts=(2,), policy=plan.smollm, task="few_shot_sums", **sizes),
    ]
    turns = in_turns(contestants, plan.rounds, 5.0, warm_up=1)
    # Alone: the memory of three such contestants is more than a machine of 24 GB has.
    turns |= in_turns([breadth(plan, "smollm_bfloat16", *settings)], plan.rounds, 5.0, warm_up=1)
    other = tuple(turn.step_s for turn in fastest_peer(turns))
    ours = tuple(turn.step_s for turn in turns["breadth smollm"])
    own_dtype = Row(
        name="rollouts/smollm_bfloat16",
        title=f"{title}, bfloat16",
        unit="s a step",
        ours=tuple(turn.step_s for turn in turns["breadth smollm_bfloat16"]),
        higher_is_better=False,
        goal=6.0,
    )
    return [replace(row, ours=ours, other=other, reason="" if other else NO_TRL), own_dtype]
