"""Training steps whose verifier is slow or does not return, beside TRL's GRPOTrainer with the same function."""

from contextlib import ExitStack
from pathlib import Path

from benchmarks.speed.contestant import Failed, breadth, in_turns, trl
from benchmarks.speed.peers.waiting import CALL_S, STUCK
from benchmarks.speed.plan import ROOT, Plan
from benchmarks.speed.result import Row
from benchmarks.speed.rows.rollouts import NO_TRL, fastest_peer

FUNCTIONS = ROOT / "benchmarks" / "speed" / "peers" / "waiting.py"
STUCK_WAIT_S = 90.0
"""Seconds after which a step of the peer counts as one that never ends."""


def slow(plan: Plan) -> list[Row]:
    """Seconds a step with a verifier that waits 50 ms for every answer, with default settings and with 16 workers."""
    verifier = f"task.verifier={FUNCTIONS}:waits"
    places: dict[str, tuple[str, ...]] = {"default": (), "16": ("grader.workers=16",)}
    if plan.quick:
        del places["16"]
    contestants = [breadth(plan, f"waiting_{name}", verifier, *words) for name, words in places.items()]
    if plan.trl:
        contestants.append(trl(plan, "waiting", reward=f"{FUNCTIONS}:waits"))
    turns = in_turns(contestants, plan.rounds, 0.0, warm_up=1)
    other = tuple(turn.step_s for turn in fastest_peer(turns))
    return [
        Row(
            name=f"verifier/{name}",
            title=f"verifier that waits {1000 * CALL_S:.0f} ms an answer, {' '.join(words) or 'default settings'}",
            unit="s a step",
            ours=tuple(turn.step_s for turn in turns[f"breadth waiting_{name}"]),
            other_name="TRL",
            other=other,
            inverse=True,
            goal=10.0,
            reason="" if other else NO_TRL,
        )
        for name, words in places.items()
    ]


def stuck(plan: Plan) -> list[Row]:
    """Seconds a step with a verifier that does not return for one answer of every step."""
    folder = plan.folder / "stuck"
    limits: dict[str, tuple[str, ...]] = {"stuck_1s": ("grader.timeout_s=1",), "stuck_default": ()}
    if plan.quick:
        del limits["stuck_default"]
    contestants = []
    for name, settings in limits.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        verifier = f"task.verifier={FUNCTIONS}:never_returns"
        contestants.append(breadth(plan, name, verifier, *settings, environment={STUCK: str(folder / name)}))
    turns = in_turns(contestants, plan.rounds, 0.0, warm_up=1)
    waited = _peer_wait(plan, folder / "trl") if plan.trl else 0.0
    return [
        Row(
            name=f"verifier/{name}",
            title=f"one answer of each step whose verifier never returns, {' '.join(words) or 'default settings'}",
            unit="s a step",
            ours=(ours := tuple(turn.step_s for turn in turns[f"breadth {name}"])),
            other_name="TRL, which had not finished its first step by then",
            other=(waited,) * len(ours) if waited else (),
            inverse=True,
            goal=10.0,
            reason="" if waited else NO_TRL,
        )
        for name, words in limits.items()
    ]


def _peer_wait(plan: Plan, folder: Path) -> float:
    """Return the seconds for which the peer was waited for in vain.

    Raises:
        AssertionError: it finished a step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    limit = 20.0 if plan.quick else STUCK_WAIT_S
    reward, environment = f"{FUNCTIONS}:never_returns", {STUCK: str(folder)}
    peer = trl(plan, "stuck", start_limit_s=limit, environment=environment, reward=reward)
    with ExitStack() as stack:
        try:
            stack.enter_context(peer).start(1)
        except Failed as error:
            assert "did not finish step" in str(error), error
            return limit
    raise AssertionError("the peer finished a step although a verifier does not return")
