"""RECAP, arXiv:2510.21978: several objectives of one run weighed by how far each still moves, and how much it sways.

Of W recent values with mean m and standard deviation s, and the W before them with mean b, an objective has
convergence c = m / b (b / m for a loss) and instability i = s / (m + b); its weight is K softmax((c + i) / T) over the
K objectives. Objectives are the mean rewards of the domains, by their names, and the replay loss.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, pstdev

import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from configs.recap import RecapConfig
from objectives.reduce import reduction_weights
from trajectories.batch import Batch

REPLAY = "replay"
"""The replay loss among the objectives and the coefficients."""
LEAST = 1e-8
"""Smallest denominator."""
HIGHEST = 10.0
"""Bound on convergence and on instability."""


@dataclass(frozen=True)
class RecapState:
    """What the weights come from. JSON after `dataclasses.asdict`."""

    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Of each objective seen so far the last 2W, oldest first."""


def observed(state: RecapState, values: Mapping[str, float], window: int) -> RecapState:
    """The state after a step with these values; an objective without a finite one was not measured and stays."""
    kept = dict(state.values)
    for name, value in values.items():
        if math.isfinite(value):
            kept[name] = (*kept.get(name, ()), value)[-2 * window :]
    return RecapState(values=kept)


def recap_weights(state: RecapState, cfg: RecapConfig) -> dict[str, float]:
    """lambda of every objective seen so far; they add up to their number, and are 1 until each has 2W values."""
    if any(len(values) < 2 * cfg.window for values in state.values.values()):
        return dict.fromkeys(state.values, 1.0)
    return softmax({name: score(name, values, cfg) for name, values in state.values.items()}, cfg.temperature)


def score(name: str, values: tuple[float, ...], cfg: RecapConfig) -> float:
    """c + i of an objective with 2W values; means count by their size where they are negative."""
    before, recent = values[: cfg.window], values[cfg.window :]
    earlier, now = abs(fmean(before)), abs(fmean(recent))
    falls = name == REPLAY and cfg.orientation == "improving"
    above, below = (earlier, now) if falls else (now, earlier)
    convergence = min(above / max(below, LEAST), HIGHEST)
    instability = min(pstdev(recent) / max(now + earlier, LEAST), HIGHEST)
    return convergence + instability


def softmax(scores: Mapping[str, float], temperature: float) -> dict[str, float]:
    """K softmax(score / T) of K objectives."""
    if not scores:
        return {}
    highest = max(scores.values())
    shares = {name: math.exp((value - highest) / temperature) for name, value in scores.items()}
    return {name: len(shares) * share / sum(shares.values()) for name, share in shares.items()}


def domain_rewards(batch: Batch) -> dict[str, float]:
    """Mean reward of the graded answers of each domain of the batch that has any."""
    graded = ~batch.reward.isnan()
    means = {name: batch.reward[graded & (batch.domain == i)].double().mean() for i, name in enumerate(batch.domains)}
    return {name: float(mean) for name, mean in means.items() if not mean.isnan()}


def domain_weights(batch: Batch, state: RecapState, cfg: RecapConfig) -> Tensor:
    """float32 [N]: lambda of the domain of each token's answer; 1 where it has none."""
    weights = recap_weights(state, cfg)
    by_domain = torch.tensor([*(weights.get(name, 1.0) for name in batch.domains), 1.0])  # the last one for domain -1
    return by_domain[batch.domain][batch.seq]


def replay_loss(logp: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """This part's share of the mean of -log pi over all replayed tokens, in nats, and -log pi of its own."""
    tokens = batch.on_route("replay")
    surprise = -logp[tokens]
    return (reduction_weights(batch, "replay", "token_mean")[tokens] * surprise).sum(), surprise


def replay_metrics(batch: Batch, state: RecapState, cfg: ObjectiveConfig) -> dict[str, float]:
    """How many answers a batch replays, and the weights it was learned from with; nothing where neither is on."""
    replayed = {"replayed": float(batch.totals["replay"].trajectories)} if cfg.replays else {}
    return replayed | {f"recap_weight/{name}": weight for name, weight in recap_weights(state, cfg.recap).items()}
