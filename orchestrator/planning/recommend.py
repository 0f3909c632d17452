"""Choose placement and lag of a run for its hardware by simulation, and say what limits it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from configs.checks import require
from orchestrator.planning.candidates import Candidate, candidates, changed, estimate
from orchestrator.planning.hardware import Gpu, gpu_named
from orchestrator.planning.lengths import Lengths
from orchestrator.planning.request import Request
from orchestrator.planning.shapes import Shapes
from orchestrator.planning.simulation import Outcome, simulate

SIMULATED = 4
"""Number of placements that are simulated, those with the best estimates."""
LAGS = (0, 1, 2, 4)
"""Lags that are compared for the best placement, unless the settings have one."""
WORTH = 1.1
"""A larger lag is recommended where a smaller one takes more than this times as long."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The best placement of a plan, and what it was compared with."""

    candidate: Candidate
    outcome: Outcome
    by_lag: dict[int, float]
    """Seconds of a step of this placement by lag."""
    others: tuple[tuple[Candidate, float], ...]
    """Other placements that were simulated, and their seconds of a step."""
    too_large: int
    """Number of placements that do not fit the memory."""
    compared: int
    """Number of placements that fit."""


def recommend(
    request: Request,
    words: Sequence[str],
    shapes: Shapes,
    lengths: Lengths,
    prompt_tokens: int,
    report: Callable[[str], None] = lambda line: None,
) -> Recommendation:
    """Return the placement with the shortest step, with the smallest lag that is worth it.

    Args:
        words: settings of the user. A lag among them is kept.
        report: called with a line about each simulation.

    Raises:
        ValueError: nothing fits; with the arithmetic of what misses least.
    """
    gpu = gpu_named(request.gpu)
    found = candidates(request.gpus, words, shapes, gpu)
    require(bool(found), "gpus", "must allow the placement that the settings ask for", request.gpus)
    fitting = [candidate for candidate in found if not candidate.problems]
    if not fitting:
        raise ValueError(_refusal(request, found, gpu))
    fitting.sort(key=lambda candidate: estimate(candidate, lengths, prompt_tokens))

    def simulated(candidate: Candidate) -> Outcome:
        outcome = simulate(candidate.cfg, candidate.costs, lengths, prompt_tokens)
        report(f"simulated {candidate.name}, lag {candidate.cfg.lag}: {outcome.step_s:.1f} s")
        return outcome

    outcomes = [(candidate, simulated(candidate)) for candidate in _different(fitting)]
    outcomes.sort(key=lambda pair: pair[1].step_s)
    best, outcome = outcomes[0]
    by_lag = {best.cfg.lag: (best, outcome)}
    if not any(word.startswith("lag=") for word in words):
        for lag in LAGS:
            if lag not in by_lag:
                by_lag[lag] = _with_lag(best, lag, simulated)
    quickest = min(outcome.step_s for _, outcome in by_lag.values())
    lag = min(lag for lag, (_, outcome) in by_lag.items() if outcome.step_s <= WORTH * quickest)
    return Recommendation(
        candidate=by_lag[lag][0],
        outcome=by_lag[lag][1],
        by_lag={lag: by_lag[lag][1].step_s for lag in sorted(by_lag)},
        others=tuple((candidate, other.step_s) for candidate, other in outcomes[1:]),
        too_large=len(found) - len(fitting),
        compared=len(fitting),
    )


def _different(fitting: Sequence[Candidate]) -> list[Candidate]:
    """Return the best candidates with different numbers of actors, so that near copies are not simulated."""
    chosen: dict[tuple[int, int, str], Candidate] = {}
    for candidate in fitting:
        place = candidate.cfg.placement
        chosen.setdefault((place.learners, place.tensor_parallel, place.mode), candidate)
    return list(chosen.values())[:SIMULATED]


def _with_lag(candidate: Candidate, lag: int, simulated: Callable[[Candidate], Outcome]) -> tuple[Candidate, Outcome]:
    cfg = changed(candidate.cfg, {"lag": lag})
    words = (*(word for word in candidate.words if not word.startswith("lag=")), f"lag={lag}")
    other = Candidate(words=words, cfg=cfg, costs=candidate.costs, problems=())
    return other, simulated(other)


def _refusal(request: Request, found: Sequence[Candidate], gpu: Gpu) -> str:
    """Return the error of a plan without a placement that fits."""
    nearest = min(found, key=lambda candidate: (len(candidate.problems), -candidate.cfg.placement.learners))
    return (
        f"gpus: must hold the policy, got {request.gpus} {gpu.name} of {gpu.memory_bytes / 1e9:.0f} GB. Of "
        f"{len(found)} placements the nearest is {nearest.name}, where these do not fit: {'; '.join(nearest.problems)}"
    )


def bottleneck(candidate: Candidate, outcome: Outcome) -> str:
    """Return what limits the step, and the change that helps."""
    seconds, step = outcome.seconds, outcome.step_s
    largest = max(seconds, key=lambda part: seconds[part])
    share = f"{seconds[largest] / step:.0%} of the step"
    if largest == "wait_generation":
        full = outcome.batch >= 0.5 * min(
            candidate.costs.engine.max_sequences,
            candidate.cfg.groups_per_step * candidate.cfg.sampling.group_size / candidate.cfg.placement.generators,
        )
        if outcome.preemptions:
            return f"generation ({share}): the key-value cache is full; more GPUs per generator, or shorter answers"
        if full:
            return f"generation ({share}): the engines are busy; more generators, or fewer answers"
        return (
            f"generation ({share}): the step waits for its longest answers; a larger lag, or a lower limit of answers"
        )
    if largest == "update" and outcome.exposed_s > seconds["update"] / 3:
        return f"update ({share}): gathering parameters; a larger learner.token_budget, or ranks within one node"
    hints = {
        "update": "more learner ranks",
        "reference": "more references",
        "score": "more learner ranks",
        "publish": "another generator.transfer",
        "measure": "a larger monitor.every, or fewer monitor.answers",
        "other": "larger batches",
    }
    return f"{largest} ({share}): {hints[largest]}"
