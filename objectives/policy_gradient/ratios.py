"""Policy-gradient surrogates per token: importance ratios, what bounds them, and none."""

import math

import torch
from torch import Tensor

from configs.objective import ClipConfig, ObjectiveConfig
from objectives.reduce import answer_mean

LOG_RATIO_LIMIT = 20.0
"""Bound on |log ratio|: e^20 keeps a hopelessly stale token finite; every clip range lies far inside."""
BISECTIONS = 200


def ratio_of(logp: Tensor, logp_old: Tensor) -> Tensor:
    """exp(logp - logp_old) [N], with the log-ratio clamped to +-20."""
    return (logp - logp_old).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def sequence_ratio(logp: Tensor, logp_old: Tensor, seq: Tensor) -> Tensor:
    """[N]: on each token, the geometric mean of its answer's token ratios. GSPO, arXiv:2507.18071, equation 7.

    `seq` [N] says which answer a token belongs to. The mean over an answer's tokens of what is made from it is the
    sequence objective, value and gradient.
    """
    return answer_mean(logp - logp_old, seq).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def kl3_bounds(delta: float) -> tuple[float, float]:
    """The roots l < 1 < u of rho - 1 - log rho = delta. ATR-GRPO, arXiv:2602.05494.

    l = -W_0(-exp(-1 - delta)) and u = -W_{-1}(-exp(-1 - delta)); found by bisection, to the last bit.
    """

    def root(inside: float, outside: float) -> float:
        for _ in range(BISECTIONS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if middle - 1 - math.log(middle) <= delta else (inside, middle)
        return inside

    return root(1.0, math.exp(-2 - delta)), root(1.0, 3 + 2 * delta + 2 * math.sqrt(2 * delta))


def bounds(clip: ClipConfig) -> tuple[float, float]:
    """The range of the ratio inside which a token keeps its gradient whatever the sign of its advantage."""
    return kl3_bounds(clip.delta) if clip.kind == "kl3" else (1 - clip.low, 1 + clip.high)


def clipped(ratio: Tensor, advantage: Tensor, clip: ClipConfig) -> tuple[Tensor, Tensor]:
    """Token losses [N] of PPO's clipped surrogate and bool [N] where the clip removed the gradient.

    -min(rho A, clip(rho, 1 - low, 1 + high) A), PPO, arXiv:1707.06347, equation 7; `high` above `low` is DAPO's
    clip-higher, arXiv:2503.14476; kind kl3 puts the bounds of `kl3_bounds` in their place. With `dual` the loss of a
    negative advantage is at most -dual A: dual clip, arXiv:1912.09729.
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
    """Token losses [N] of the ratio and clip chosen, and bool [N] where a clip removed (cispo: cut) the gradient.

    ratio=none is REINFORCE, -A log pi; clip.kind=cispo is -sg(clip(rho)) A log pi, MiniMax-M1, arXiv:2506.13585,
    equation 4.
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
