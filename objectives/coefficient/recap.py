"""RECAP: weights of K objectives of one run by their convergence and instability (arXiv:2510.21978); the replay loss.

m and s are mean and standard deviation of an objective's W recent values, b is the mean of the W values before. Its
convergence is c = m / b (b / m for a loss), its instability i = s / (m + b), its weight K softmax((c + i) / T). The
objectives are the mean rewards of the domains, by name, and the replay loss; with several rewards of an answer whose
advantages are weighed, their means instead of those of the domains.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, pstdev

import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from configs.recap import RecapConfig
from configs.rewards import with_answer
from objectives.reduce import reduction_weights
from trajectories.batch import Batch
from trajectories.trajectory import ROUTES

REPLAY = "replay"
"""Name of the replay loss among objectives and coefficients."""
LEAST = 1e-8
"""Smallest denominator."""
HIGHEST = 10.0
"""Upper bound on convergence and instability."""


@dataclass(frozen=True)
class RecapState:
    """Recent values of all objectives; `dataclasses.asdict` makes it JSON."""

    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """The last 2W values of each objective, oldest first."""


def observed(state: RecapState, values: Mapping[str, float], window: int) -> RecapState:
    """Return the state after a step with these values; an objective without a finite value keeps its old ones."""
    kept = dict(state.values)
    for name, value in values.items():
        if math.isfinite(value):
            kept[name] = (*kept.get(name, ()), value)[-2 * window :]
    return RecapState(values=kept)


def recap_weights(state: RecapState, cfg: RecapConfig) -> dict[str, float]:
    """Return the weight lambda of every objective; they sum to their number and are 1 until each has 2W values."""
    if any(len(values) < 2 * cfg.window for values in state.values.values()):
        return dict.fromkeys(state.values, 1.0)
    return softmax({name: score(name, values, cfg) for name, values in state.values.items()}, cfg.temperature)


def score(name: str, values: tuple[float, ...], cfg: RecapConfig) -> float:
    """Return c + i of an objective with 2W values, from the absolute values of its means."""
    before, recent = values[: cfg.window], values[cfg.window :]
    earlier, now = abs(fmean(before)), abs(fmean(recent))
    falls = name == REPLAY and cfg.orientation == "improving"
    above, below = (earlier, now) if falls else (now, earlier)
    convergence = min(above / max(below, LEAST), HIGHEST)
    instability = min(pstdev(recent) / max(now + earlier, LEAST), HIGHEST)
    return convergence + instability


def softmax(scores: Mapping[str, float], temperature: float) -> dict[str, float]:
    """Return K softmax(score / T) over K objectives."""
    if not scores:
        return {}
    highest = max(scores.values())
    powers = {name: math.exp((value - highest) / temperature) for name, value in scores.items()}
    return {name: len(powers) * power / sum(powers.values()) for name, power in powers.items()}


def mean_rewards(batch: Batch, cfg: ObjectiveConfig) -> dict[str, float]:
    """Return the mean over new graded answers of each reward that has a weight, or of the reward of each domain."""
    graded = ~batch.reward.isnan() & (batch.route == ROUTES.index("explore"))
    if cfg.weighs_rewards:
        weighed = {name: batch.rewards.get(name) for name, reward in with_answer(cfg.rewards).items() if reward.weight}
        return {n: float(values[graded].double().mean()) for n, values in weighed.items() if values is not None}
    means = {name: batch.reward[graded & (batch.domain == i)].double().mean() for i, name in enumerate(batch.domains)}
    return {name: float(mean) for name, mean in means.items() if not mean.isnan()}


def domain_weights(batch: Batch, state: RecapState, cfg: RecapConfig) -> Tensor:
    """Return the weight lambda of the domain of each token's answer, float32 [N]; 1 for stored answers."""
    weights = recap_weights(state, cfg)
    # Stored answers have domain -1, the index of the last element.
    by_domain = torch.tensor([*(weights.get(name, 1.0) for name in batch.domains), 1.0])
    return by_domain[batch.domain][batch.seq]


def replay_loss(logp: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the replay loss of a microbatch, and -log pi of its replayed tokens, in nats.

    The losses of all microbatches sum to the mean of -log pi over the replayed tokens of the batch.
    """
    tokens = batch.on_route("replay")
    negative_logp = -logp[tokens]
    return (reduction_weights(batch, "replay", "token_mean")[tokens] * negative_logp).sum(), negative_logp


def replay_metrics(batch: Batch, state: RecapState, cfg: ObjectiveConfig) -> dict[str, float]:
    """Return the number of replayed answers, and RECAP's weights; empty where neither is on."""
    replayed = {"replayed": float(batch.totals["replay"].trajectories)} if cfg.replays else {}
    return replayed | {f"recap_weight/{name}": weight for name, weight in recap_weights(state, cfg.recap).items()}
