"""Choose placement and lag of a run for its hardware by simulation, and say what limits it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from configs.checks import require
from orchestrator.planning.candidates import Candidate, candidates, estimate
from orchestrator.planning.changes import changed
from orchestrator.planning.model_shapes import ModelShapes
from orchestrator.planning.nearest_change import refusal
from orchestrator.planning.phases import GB
from orchestrator.planning.request import Request
from orchestrator.simulation.hardware import Gpu, gpu_named
from orchestrator.simulation.lengths import Lengths
from orchestrator.simulation.steps import Outcome, simulate

SIMULATED = 4
"""Number of placements that are simulated, those with the best estimates."""
LAGS = ((0, "fifo"), (1, "fifo"), (2, "fifo"), (2, "any_order"), (4, "fifo"), (4, "any_order"))
"""Lags and orders of groups that are compared for the best placement, unless the settings have one; the first that is
nearly the best is recommended."""
WORTH = 1.1
"""A larger lag, or another order, is recommended where the step takes more than this times as long without it."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The best placement of a plan, and what it was compared with."""

    candidate: Candidate
    outcome: Outcome
    by_lag: dict[tuple[int, str], float]
    """Seconds of a step of this placement, by lag and by the order in which groups are taken."""
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
    by_lag: dict[tuple[int, str], tuple[Candidate, Outcome]] = {(best.cfg.lag, best.cfg.take): (best, outcome)}
    # Engines on the learner's GPUs, and methods that need answers of the policy itself, have lag 0.
    if best.cfg.lag and not any(word.partition("=")[0] in ("lag", "take") for word in words):
        others = {key: _with_lag(best, *key) for key in LAGS if key not in by_lag}
        by_lag |= {key: (other, simulated(other)) for key, other in others.items()}
        by_lag = {key: by_lag[key] for key in LAGS}
    quickest = min(outcome.step_s for _, outcome in by_lag.values())
    chosen = next(key for key, (_, outcome) in by_lag.items() if outcome.step_s <= WORTH * quickest)
    return Recommendation(
        candidate=by_lag[chosen][0],
        outcome=by_lag[chosen][1],
        by_lag={key: outcome.step_s for key, (_, outcome) in by_lag.items()},
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


def _with_lag(candidate: Candidate, lag: int, take: str) -> Candidate:
    """Return the same placement with another lag, and another order of the groups."""
    values = {"lag": lag, "take": take}
    words = tuple(f"{key}={value}" for key, value in values.items() if getattr(candidate.cfg, key) != value)
    return replace(candidate, words=(*candidate.words, *words), cfg=changed(candidate.cfg, values))


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
