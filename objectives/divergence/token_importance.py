"""Which tokens of an answer are worth distilling: TIP, arXiv:2604.14084.

The policy is read before its first update of the step, whose entropy and distance to the anchor the batch holds. M
explored tokens of the whole batch: scores are scaled over all of them, so nothing here may be done to a part of it.
"""

import torch
from torch import Tensor

from configs.term_weights import TermWeightsConfig
from trajectories.batch import Batch

ENTROPY_PERCENTILE = 0.98
"""Entropies above it are cut to it, so that a few outliers do not set the scale."""
FLAT = 1e-6
"""Scores, in nats, that differ by no more are equal but for rounding."""
ROUNDING = 1e-6
"""Tokens by which a share of a length may miss a whole number: 0.29 of 100 is 28.999... in binary."""


def important(batch: Batch, cfg: TermWeightsConfig, distance: Tensor | None) -> Tensor:
    """bool [N]: the top floor(keep * length) explored tokens of each answer by their score, the earlier of equals.

    `distance` [N]: KL(policy || anchor) at each token, in nats; needed but for importance=entropy.
    """
    assert batch.entropy_old is not None, "the importance of tokens needs the entropy the policy had"
    explored = batch.on_route("explore")
    entropy = batch.entropy_old[explored]
    seq, away = batch.seq[explored], None
    if cfg.needs_distance:
        assert distance is not None, "the importance of tokens needs the distance to the anchor"
        away = distance[explored]
    kept = torch.zeros_like(explored)
    kept[explored] = highest(token_scores(entropy, away, cfg.importance), seq, cfg.keep)
    return kept


def token_scores(entropy: Tensor, distance: Tensor | None, kind: str) -> Tensor:
    """[M] in [0, 1]: h + d - h d (soft_or), h (entropy), or (1 - h) d (confidently_wrong).

    h and d are entropy and distance on the scale of the batch, h without its highest 2 %; log V, by which the paper
    divides the entropy, falls out of the scale. (1 - h) d is ours: the paper's thresholds are not in the sources.
    """
    h = scaled(entropy.clamp(max=percentile(entropy, ENTROPY_PERCENTILE)))
    if kind == "entropy":
        return h
    assert distance is not None, f"{kind} needs the distance"
    d = scaled(distance)
    return h + d - h * d if kind == "soft_or" else (1 - h) * d


def scaled(values: Tensor) -> Tensor:
    """[M]: 0 for the least, 1 for the greatest; all 0 where they are alike."""
    if not len(values):
        return values
    least, greatest = values.aminmax()
    if greatest - least <= FLAT:
        return torch.zeros_like(values)
    return (values - least) / (greatest - least)


def percentile(values: Tensor, share: float) -> Tensor:
    """Interpolated between the two nearest values; 0 of none. torch.quantile refuses more than 2^24 values."""
    if not len(values):
        return values.new_zeros(())
    place = share * (len(values) - 1)
    pair = values.sort().values[int(place) : int(place) + 2]
    return pair[0].lerp(pair[-1], place - int(place))


def highest(scores: Tensor, seq: Tensor, share: float) -> Tensor:
    """bool [M]: the floor(share * length) highest scores of each answer, the earlier of equals; `seq` [M] ascending."""
    kept = torch.zeros_like(seq, dtype=torch.bool)
    for start, length in _spans(seq):
        order = scores[start : start + length].sort(descending=True, stable=True).indices
        kept[start + order[: int(share * length + ROUNDING)]] = True
    return kept


def _spans(seq: Tensor) -> list[tuple[int, int]]:
    """Where each answer starts, and how long it is."""
    lengths = torch.unique_consecutive(seq, return_counts=True)[1]
    return list(zip((lengths.cumsum(0) - lengths).tolist(), lengths.tolist(), strict=True))
