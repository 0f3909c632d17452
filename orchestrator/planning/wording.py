"""A recommendation as lines of text: the settings to paste, what a step takes, and what limits it."""

from collections.abc import Sequence

from orchestrator.planning.candidates import Candidate
from orchestrator.planning.model_shapes import ModelShapes
from orchestrator.planning.recommend import Recommendation
from orchestrator.planning.request import Request
from orchestrator.simulation.lengths import Lengths
from orchestrator.simulation.steps import Outcome


def lines(
    request: Request,
    words: Sequence[str],
    shapes: ModelShapes,
    lengths: Lengths,
    prompt_tokens: int,
    found: Recommendation,
) -> list[str]:
    """Return the lines that the command prints."""
    cfg, outcome = found.candidate.cfg, found.outcome
    step = outcome.step_s
    parts = [
        f"  {name:<16}{seconds:8.1f} s  {seconds / step:4.0%}" for name, seconds in outcome.seconds.items() if seconds
    ]
    settings = [word for word in words if not word.startswith("scale=")]
    return [
        f"{shapes.parameters / 1e9:.1f}B parameters on {request.gpus} {request.gpu}; {cfg.groups_per_step} prompts x "
        f"{cfg.sampling.group_size} answers a step; answers of {lengths.mean:.0f} tokens (at most "
        f"{cfg.sampling.max_new_tokens:,}), prompts of {prompt_tokens}",
        "",
        f"  {' '.join([*(w for w in words if w.startswith('scale=')), *found.candidate.words, *settings])}",
        "",
        f"{found.candidate.name}, lag {cfg.lag}",
        f"step            {step:10.1f} s, {outcome.tokens / step:,.0f} generated tokens/s, staleness "
        f"{outcome.staleness:.1f}, {outcome.batch:.0f} answers at a time in an engine",
        *parts,
        f"bottleneck: {bottleneck(found.candidate, outcome)}",
        *([f"by lag: {_by_lag(found)}"] if len(found.by_lag) > 1 else []),
        *(f"{seconds:8.1f} s  {other.name}" for other, seconds in found.others),
        f"{found.compared} placements fit, {found.too_large} do not. Seconds are simulated from published figures of "
        f"{request.gpu} (docs/deployment.md), not measured.",
    ]


def _by_lag(found: Recommendation) -> str:
    return ", ".join(
        f"{lag}{' in any order' if take == 'any_order' else ''} {seconds:.1f} s"
        for (lag, take), seconds in found.by_lag.items()
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
        return f"generation ({share}): the step waits for its longest answers; a larger lag, or shorter answers"
    if largest == "update" and outcome.exposed_s > seconds["update"] / 3:
        return f"update ({share}): gathering parameters; a larger learner.token_budget, or ranks within one node"
    hints = {
        "update": "more GPUs, or fewer answers",
        "reference": "more references",
        "score": "more GPUs, or fewer answers",
        "publish": "another generator.transfer",
        "measurement": "a larger monitor.every, or fewer monitor.answers",
        "other": "larger batches",
    }
    return f"{largest} ({share}): {hints[largest]}"
