"""Compute pseudo-rewards that move the policy towards a target distribution p (f-DPG, arXiv:2302.08215).

With t = pi(y) / p(y) of whole answers, grad D_f(pi || p) = E_pi[f'(t) grad log pi], so -f'(t) acts as a reward.
"""

import math

import torch
from torch import Tensor

from configs.objective import TargetConfig
from objectives.divergence.f_divergences import F_DIVERGENCES

LIMIT = 10.0
"""Bound on |log t|: ratios of whole answers can be arbitrarily large, and f' with them."""


def pseudo_rewards(log_u: Tensor, reward: Tensor, group: Tensor, cfg: TargetConfig) -> Tensor:
    """Return -(f'(t) - f'(1)) minus its mean over the group [B].

    p(y) = reference(y) exp(reward / beta) / Z (tilt), or reference(y) [reward >= 1] / Z (filter). log Z is estimated
    from the group as the log of the mean of P(y) / pi(y), P = Z p. A group whose answers all have p = 0 gets 0, as do a
    NaN reward and group -1. An answer with p = 0 has log t at its bound.

    Args:
        log_u: float32 [B], log pi - log reference of whole answers.
    """
    result = torch.zeros_like(log_u)
    for number in group[group >= 0].unique().tolist():
        members = (group == number) & ~reward.isnan()
        score = _log_score(reward[members], cfg) - log_u[members]  # log P - log pi
        if len(score) and bool((score > -math.inf).any()):
            log_partition = score.logsumexp(0) - math.log(len(score))
            log_t = (log_partition - score).clamp(-LIMIT, LIMIT)
            pseudo = -F_DIVERGENCES[cfg.divergence](log_t, 0.5).slope
            result[members] = pseudo - pseudo.mean()
    return result


def _log_score(reward: Tensor, cfg: TargetConfig) -> Tensor:
    """Return log P - log reference."""
    if cfg.kind == "tilt":
        return reward / cfg.beta
    return torch.where(reward >= 1, 0.0, -math.inf)
