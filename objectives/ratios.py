"""Policy-gradient surrogates per token: PPO's clipped importance ratio, and none."""

from typing import Literal

import torch
from torch import Tensor

from configs.objective_schema import ClipConfig

LOG_RATIO_LIMIT = 20.0
"""Bound on |log ratio|: e^20 keeps a hopelessly stale token finite; every clip range lies far inside."""


def ratio_of(logp: Tensor, logp_old: Tensor) -> Tensor:
    """exp(logp - logp_old) [N], with the log-ratio clamped to +-20."""
    return (logp - logp_old).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def clipped_ratio(logp: Tensor, logp_old: Tensor, advantage: Tensor, clip: ClipConfig) -> tuple[Tensor, Tensor]:
    """Token losses [N] of PPO's clipped surrogate and bool [N] where the clip removed the gradient.

    -min(rho A, clip(rho, 1 - low, 1 + high) A), PPO, arXiv:1707.06347, equation 7; `high` above `low` is DAPO's
    clip-higher, arXiv:2503.14476. With `dual` the loss of a negative advantage is at most -dual A: dual clip,
    arXiv:1912.09729.
    """
    ratio = ratio_of(logp, logp_old)
    low, high = 1 - clip.low, 1 + clip.high
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)
    clipped = ((advantage > 0) & (ratio > high)) | ((advantage < 0) & (ratio < low))
    if clip.dual is not None:
        negative = advantage < 0
        surrogate = torch.where(negative, torch.maximum(surrogate, clip.dual * advantage), surrogate)
        clipped = clipped | (negative & (ratio > clip.dual))
    return -surrogate, clipped


def plain(logp: Tensor, advantage: Tensor) -> tuple[Tensor, Tensor]:
    """Token losses [N] of REINFORCE, -A log pi, and the clip that never happens."""
    return -advantage * logp, torch.zeros_like(advantage, dtype=torch.bool)


def policy_gradient(
    logp: Tensor, logp_old: Tensor, advantage: Tensor, ratio: Literal["token", "none"], clip: ClipConfig
) -> tuple[Tensor, Tensor]:
    """Token losses [N] of the ratio chosen, and bool [N] where a clip removed the gradient."""
    return plain(logp, advantage) if ratio == "none" else clipped_ratio(logp, logp_old, advantage, clip)
