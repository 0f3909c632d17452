"""f-DPG, arXiv:2302.08215: the policy approaches a distribution p given by the reference and the reward.

With t = pi(y) / p(y) over whole answers, grad D_f(pi || p) = E_pi[f'(t) grad log pi], so -f'(t) is a reward.
"""

import math

import torch
from torch import Tensor

from configs.objective import TargetConfig
from objectives.divergence.f_divergences import DIVERGENCES

LIMIT = 10.0
"""Bound on |log t|: ratios of whole answers reach any size, and the unbounded f' would follow them."""


def pseudo_rewards(log_u: Tensor, reward: Tensor, group: Tensor, cfg: TargetConfig) -> Tensor:
    """[B]: -(f'(t) - f'(1)) less its mean over the group; `log_u` [B] is log pi - log reference of whole answers.

    p(y) = reference(y) exp(reward / beta) / Z, or reference(y) [reward >= 1] / Z, and the group's answers estimate
    log Z, the log of the mean of P(y) / pi(y). A group without an answer p allows gets 0, as does a NaN reward and
    group -1. An answer p forbids has log t at its bound.
    """
    result = torch.zeros_like(log_u)
    for number in group[group >= 0].unique().tolist():
        members = (group == number) & ~reward.isnan()
        score = _log_score(reward[members], cfg) - log_u[members]  # log P - log pi
        if len(score) and bool((score > -math.inf).any()):
            log_partition = score.logsumexp(0) - math.log(len(score))
            log_t = (log_partition - score).clamp(-LIMIT, LIMIT)
            pseudo = -DIVERGENCES[cfg.divergence](log_t, 0.5).slope
            result[members] = pseudo - pseudo.mean()
    return result


def _log_score(reward: Tensor, cfg: TargetConfig) -> Tensor:
    """log P - log reference."""
    if cfg.kind == "tilt":
        return reward / cfg.beta
    return torch.where(reward >= 1, 0.0, -math.inf)
