"""Select the tokens to distil on by the student's entropy and the teacher-student divergence (TIP, arXiv:2604.14084).

Entropy and divergence are those of the policy before its first update of the step. M explored tokens of the whole
batch. Scores are scaled over all of them, so these functions must not be applied to a part of the batch.
"""

import torch
from torch import Tensor

from configs.term_weights import TermWeightsConfig
from trajectories.batch import Batch

ENTROPY_PERCENTILE = 0.98
"""Entropies are clamped to this percentile, so that a few outliers do not set the scale."""
FLAT = 1e-6
"""Scores, in nats, whose range is at most this are equal up to rounding."""
ROUNDING = 1e-6
"""Tolerance when a fraction of a length is rounded down: 0.29 of 100 is 28.999... in binary."""


def important(batch: Batch, cfg: TermWeightsConfig, distance: Tensor | None) -> Tensor:
    """Return the floor(keep * length) explored tokens of each answer with the highest score, bool [N].

    Of equal scores the earlier token is kept.

    Args:
        distance: float32 [N], nats, KL(policy || anchor) at each token; not needed for importance=entropy.
    """
    assert batch.entropy_old is not None, "token importance needs the policy's entropy before the first update"
    explored = batch.on_route("explore")
    entropy = batch.entropy_old[explored]
    seq, away = batch.seq[explored], None
    if cfg.needs_distance:
        assert distance is not None, "token importance needs the distance to the anchor"
        away = distance[explored]
    kept = torch.zeros_like(explored)
    kept[explored] = highest(token_scores(entropy, away, cfg.importance), seq, cfg.keep)
    return kept


def token_scores(entropy: Tensor, distance: Tensor | None, kind: str) -> Tensor:
    """Return the scores [M] in [0, 1]: h + d - h d (soft_or), h (entropy), or (1 - h) d (confidently_wrong).

    h and d are entropy and distance, scaled to [0, 1] over the batch, h clamped to its 98th percentile. The paper's
    division by log V cancels in the scaling. (1 - h) d is ours: the paper's thresholds are not published.
    """
    h = scaled(entropy.clamp(max=percentile(entropy, ENTROPY_PERCENTILE)))
    if kind == "entropy":
        return h
    assert distance is not None, f"{kind} needs the distance"
    d = scaled(distance)
    return h + d - h * d if kind == "soft_or" else (1 - h) * d


def scaled(values: Tensor) -> Tensor:
    """Scale `values` [M] to [0, 1]; all 0 where they are equal."""
    if not len(values):
        return values
    least, greatest = values.aminmax()
    if greatest - least <= FLAT:
        return torch.zeros_like(values)
    return (values - least) / (greatest - least)


def percentile(values: Tensor, fraction: float) -> Tensor:
    """Return a percentile, interpolated between the two nearest values; 0 for no values.

    torch.quantile is not used: it refuses more than 2^24 values.
    """
    if not len(values):
        return values.new_zeros(())
    place = fraction * (len(values) - 1)
    pair = values.sort().values[int(place) : int(place) + 2]
    return pair[0].lerp(pair[-1], place - int(place))


def highest(scores: Tensor, seq: Tensor, fraction: float) -> Tensor:
    """Return the floor(fraction * length) highest scores of each answer, bool [M]; of equal ones the earlier.

    Args:
        seq: int64 [M], ascending, the answer of each token.
    """
    kept = torch.zeros_like(seq, dtype=torch.bool)
    for start, length in _spans(seq):
        order = scores[start : start + length].sort(descending=True, stable=True).indices
        kept[start + order[: int(fraction * length + ROUNDING)]] = True
    return kept


def _spans(seq: Tensor) -> list[tuple[int, int]]:
    """Return start and length of each answer."""
    lengths = torch.unique_consecutive(seq, return_counts=True)[1]
    return list(zip((lengths.cumsum(0) - lengths).tolist(), lengths.tolist(), strict=True))
