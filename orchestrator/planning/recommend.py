"""Choose placement and lag of a run for its hardware by simulation, and say what limits it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from configs.checks import require
from orchestrator.planning.candidates import Candidate, candidates, changed, estimate
from orchestrator.planning.model_shapes import ModelShapes
from orchestrator.planning.nearest_change import refusal
from orchestrator.planning.phases import GB
from orchestrator.planning.request import Request
from orchestrator.simulation.hardware import Gpu, gpu_named
from orchestrator.simulation.lengths import Lengths
from orchestrator.simulation.steps import Outcome, simulate

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
    file: str | None,
    shapes: ModelShapes,
    lengths: Lengths,
    prompt_tokens: int,
    report: Callable[[str], None] = lambda line: None,
) -> Recommendation:
    """Return the placement with the shortest step, with the smallest lag that is worth it.

    Args:
        words: settings of the user. A lag among them is kept.
        file: a file of settings.
        report: called with a line about each simulation.

    Raises:
        ValueError: nothing fits; with the arithmetic of what misses least.
    """
    gpu = gpu_named(request.gpu)
    found = candidates(request.gpus, words, file, shapes, gpu)
    require(bool(found), "gpus", "must allow the placement that the settings ask for", request.gpus)
    fitting = [candidate for candidate in found if not candidate.problems]
    if not fitting:
        raise ValueError(_refusal(request, found, shapes, gpu))
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
    other = Candidate(words=words, cfg=cfg, costs=candidate.costs, memory=candidate.memory)
    return other, simulated(other)


def _refusal(request: Request, found: Sequence[Candidate], shapes: ModelShapes, gpu: Gpu) -> str:
    """Return the error of a plan without a placement that fits."""
    nearest = min(found, key=lambda candidate: (candidate.problems, _excess(candidate)))
    reason = refusal(nearest.cfg, shapes, gpu.memory_bytes)
    return (
        f"gpus: must hold the policy, got {request.gpus} {gpu.name} of {gpu.memory_bytes / GB:.0f} GB. None of "
        f"{len(found)} placements fits; the nearest is {nearest.name}.\n{reason}"
    )


def _excess(candidate: Candidate) -> float:
    """Return by how many times the fullest place is larger than its GPU."""
    return max(place.peak.bytes / place.capacity for place in candidate.memory.gpus)
