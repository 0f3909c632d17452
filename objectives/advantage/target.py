"""Compute pseudo-rewards that move the policy towards a target distribution p (f-DPG, arXiv:2302.08215; GDC,
arXiv:2012.11635).

With t = pi(y) / p(y) of whole answers, grad D_f(pi || p) = E_pi[f'(t) grad log pi], so -f'(t) acts as a reward.
"""

import math

import torch
from torch import Tensor

from configs.target import TargetConfig
from objectives.divergence.f_divergences import F_DIVERGENCES
from trajectories.batch import groups_of

LIMIT = 10.0
"""Bound on |log t|: ratios of whole answers can be arbitrarily large, and f' with them."""
LARGEST_TILT = 10.0
"""Bound on |lambda| of a moment constraint, which no lambda meets if too many prompts have only wrong answers."""
HALVINGS = 50
"""Halvings of the interval of lambda, which is 2e-14 long after them."""


def pseudo_rewards(log_u: Tensor, reward: Tensor, group: Tensor, cfg: TargetConfig) -> Tensor:
    """Return -(f'(t) - f'(1)) minus its mean over the group [B].

    p(y) = reference(y) exp(reward / beta) / Z (tilt), reference(y) exp(lambda reward) / Z (moment), or
    reference(y) [reward >= 1] / Z (filter). log Z is estimated from the group as the log of the mean of P(y) / pi(y),
    P = Z p. A group whose answers all have p = 0 gets 0, as do a NaN reward and group -1. An answer with p = 0 has
    log t at its bound.

    Args:
        log_u: float32 [B], log pi - log reference of whole answers.
    """
    result = torch.zeros_like(log_u)
    tilt = moment_tilt(log_u, reward, group, cfg.moment) if cfg.kind == "moment" else 1 / cfg.beta
    for of_group in groups_of(group):
        members = of_group[~reward[of_group].isnan()]
        score = _log_score(reward[members], cfg, tilt) - log_u[members]  # log P - log pi
        if len(score) and bool((score > -math.inf).any()):
            log_partition = score.logsumexp(0) - math.log(len(score))
            log_t = (log_partition - score).clamp(-LIMIT, LIMIT)
            pseudo = -F_DIVERGENCES[cfg.divergence](log_t, 0.5).slope
            result[members] = pseudo - pseudo.mean()
    return result


def moment_tilt(log_u: Tensor, reward: Tensor, group: Tensor, moment: float) -> float:
    """Return the lambda in [-10, 10] at which the mean reward under reference(y) exp(lambda reward) / Z is `moment`.

    The mean of a prompt is the self-normalised importance sampling estimate from its answers, sum_i w_i r_i / sum_i w_i
    with w_i = exp(lambda r_i) / u_i; that of all prompts rises with lambda, so lambda is found by bisection. Answers
    with a NaN reward or in group -1 do not count. Where no lambda reaches `moment`, the bound nearer to it is returned.

    Args:
        log_u: float32 [B], log pi - log reference of whole answers.

    Source: GDC, arXiv:2012.11635; there lambda is fitted by gradient steps.
    """
    known = (group >= 0) & ~reward.isnan()
    rewards, log_u = reward[known].double(), log_u[known].double()
    prompts, prompt = group[known].unique(return_inverse=True)
    low, high = -LARGEST_TILT, LARGEST_TILT
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        score = middle * rewards - log_u
        # The greatest score of each prompt is subtracted, so that exp cannot overflow.
        greatest = score.new_full((len(prompts),), -math.inf).scatter_reduce(0, prompt, score, "amax")
        weight = (score - greatest[prompt]).exp()
        total = torch.zeros_like(greatest).index_add(0, prompt, weight)
        mean = torch.zeros_like(greatest).index_add(0, prompt, weight * rewards) / total
        low, high = (middle, high) if mean.mean().item() < moment else (low, middle)
    return high


def _log_score(reward: Tensor, cfg: TargetConfig, tilt: float) -> Tensor:
    """Return log P - log reference."""
    if cfg.kind == "filter":
        return torch.where(reward >= 1, 0.0, -math.inf)
    return reward * tilt
