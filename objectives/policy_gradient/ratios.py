"""Policy-gradient losses per token: importance ratios and their clipping. M explored tokens."""

import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from configs.policy_gradient import ClipConfig
from objectives.policy_gradient.clip_range import bounds
from objectives.reduce import answer_mean

LOG_RATIO_LIMIT = 20.0
"""Bound on |log ratio|: keeps the ratio of a very stale token finite; every clip range lies far inside."""


def ratio_of(logp: Tensor, logp_old: Tensor) -> Tensor:
    """Return exp(logp - logp_old) [M], with the log-ratio clamped to [-20, 20]."""
    return (logp - logp_old).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def sequence_ratio(logp: Tensor, logp_old: Tensor, seq: Tensor) -> Tensor:
    """Return on each token the geometric mean of its answer's token ratios [M]; `seq` [M] is the answer of each token.

    The mean over an answer's tokens of a function of it is the sequence objective, in value and gradient. Source: GSPO,
    arXiv:2507.18071, equation 7.
    """
    return answer_mean(logp - logp_old, seq).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def clipped(ratio: Tensor, advantage: Tensor, clip: ClipConfig) -> tuple[Tensor, Tensor]:
    """Return the token losses of the clipped surrogate [M], and where the clip removed the gradient, bool [M].

    -min(rho A, clip(rho, 1 - low, 1 + high) A); kind kl3 uses the bounds of `kl3_bounds`. With `dual` the loss of a
    negative advantage is at most -dual A. Source: PPO, arXiv:1707.06347, equation 7; clip-higher: DAPO,
    arXiv:2503.14476; dual clip: arXiv:1912.09729.
    """
    low, high = bounds(clip)
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)
    removed = ((advantage > 0) & (ratio > high)) | ((advantage < 0) & (ratio < low))
    if clip.dual is not None:
        negative = advantage < 0
        surrogate = torch.where(negative, torch.maximum(surrogate, clip.dual * advantage), surrogate)
        removed = removed | (negative & (ratio > clip.dual))
    return -surrogate, removed


def policy_gradient(
    logp: Tensor, logp_old: Tensor, advantage: Tensor, seq: Tensor, cfg: ObjectiveConfig
) -> tuple[Tensor, Tensor]:
    """Return the token losses of the chosen ratio and clip [M], and where the clip acted, bool [M].

    ratio=none is REINFORCE, -A log pi; clip.kind=cispo is -sg(clip(rho)) A log pi, where sg stops the gradient. Source:
    CISPO of MiniMax-M1, arXiv:2506.13585, equation 4.

    Args: logp: float32 [M], with gradient; logp_old: float32 [M], the denominator; advantage: float32 [M]; seq:
    int64 [M].
    """
    if cfg.ratio == "none":
        return -advantage * logp, torch.zeros_like(advantage, dtype=torch.bool)
    ratio = sequence_ratio(logp, logp_old, seq) if cfg.ratio == "sequence" else ratio_of(logp, logp_old)
    if cfg.clip.kind == "none":
        return -ratio * advantage, torch.zeros_like(advantage, dtype=torch.bool)
    if cfg.clip.kind == "cispo":
        weight = ratio.detach().clamp(*bounds(cfg.clip))
        return -weight * advantage * logp, weight != ratio.detach()
    return clipped(ratio, advantage, cfg.clip)
