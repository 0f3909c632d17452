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


def soft_gate(ratio: Tensor, advantage: Tensor, clip: ClipConfig) -> Tensor:
    """Return f(rho) = 4 / tau sigmoid(tau (rho - 1)) [M], with a tau for each sign of the advantage.

    f'(1) = 1, and f'(rho) = 4 p (1 - p) with p = sigmoid(tau (rho - 1)) falls to 0 on both sides. Source: SAPO,
    arXiv:2511.20347, equations 5 and 6.
    """
    tau = torch.where(advantage > 0, clip.temperature_positive, clip.temperature_negative)
    return (tau * (ratio - 1)).sigmoid() * 4 / tau


def clipped_geometric_mean(
    log_ratio: Tensor, advantage: Tensor, seq: Tensor, clip: ClipConfig
) -> tuple[Tensor, Tensor]:
    """Return the token losses of GMPO [M], and the tokens whose gradient is clipped, bool [M].

    The ratio of an answer is exp(mean of l_t), with l_t = min(log rho_t, high) where the advantage is positive, and
    max(log rho_t, -low) where it is negative. Source: GMPO, arXiv:2507.20673.
    """
    removed = ((advantage > 0) & (log_ratio > clip.high)) | ((advantage < 0) & (log_ratio < -clip.low))
    kept = torch.where(removed, log_ratio.detach().clamp(-clip.low, clip.high), log_ratio)
    return -answer_mean(kept, seq).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp() * advantage, removed


def outside_trust_region(logp: Tensor, logp_old: Tensor, advantage: Tensor, delta: float) -> Tensor:
    """Return the tokens whose probability has moved by more than `delta` in the direction of the advantage, bool [M].

    |pi - pi_old| is the total variation between the distributions over the sampled token and all others. Source: DPPO,
    arXiv:2602.04879, binary total variation.
    """
    moved = logp.detach().exp() - logp_old.exp()
    return ((advantage > 0) & (moved > delta)) | ((advantage < 0) & (moved < -delta))


def policy_gradient(
    logp: Tensor, logp_old: Tensor, advantage: Tensor, seq: Tensor, cfg: ObjectiveConfig
) -> tuple[Tensor, Tensor]:
    """Return the token losses of the chosen ratio and clip [M], and where the clip acted, bool [M].

    ratio=none is REINFORCE, -A log pi; clip.kind=cispo is -sg(clip(rho)) A log pi, where sg stops the gradient; dppo is
    the same inside its trust region, and 0 outside. Source: CISPO of MiniMax-M1, arXiv:2506.13585, equation 4.

    Args: logp: float32 [M], with gradient; logp_old: float32 [M], the denominator; advantage: float32 [M]; seq:
    int64 [M].
    """
    clip, nowhere = cfg.clip, torch.zeros_like(advantage, dtype=torch.bool)
    if cfg.ratio == "none":
        return -advantage * logp, nowhere
    if clip.kind == "gmpo":
        return clipped_geometric_mean(logp - logp_old, advantage, seq, clip)
    ratio = sequence_ratio(logp, logp_old, seq) if cfg.ratio == "sequence" else ratio_of(logp, logp_old)
    if clip.kind == "none":
        return -ratio * advantage, nowhere
    if clip.kind == "sapo":
        return -soft_gate(ratio, advantage, clip) * advantage, nowhere
    if clip.kind in ("cispo", "dppo"):
        weight = ratio.detach().clamp(*bounds(clip))
        if clip.kind == "cispo":
            return -weight * advantage * logp, weight != ratio.detach()
        outside = outside_trust_region(logp, logp_old, advantage, clip.delta)
        return -(weight * ~outside) * advantage * logp, outside
    return clipped(ratio, advantage, clip)
