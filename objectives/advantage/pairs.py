"""Preference losses over pairs of answers of one group, as advantages: DPO and its family.

The loss L is a function of each answer's log u, u = policy / anchor. So the policy gradient with the advantage
-dL / dlog u of each answer, under the policy before the step's first update, has the gradient of L.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from configs.pairs import PairsConfig
from objectives.divergence.f_divergences import F_DIVERGENCES, bounded
from trajectories.trajectory import EQUAL_REWARDS

LIMIT = 10.0
"""Bound on |log u| in the slope of every divergence but the reverse KL: others grow with a power of u or 1 / u."""


def pair_advantages(log_u: Tensor, reward: Tensor, lengths: Tensor, group: Tensor, cfg: PairsConfig) -> Tensor:
    """Return -B dL / dlog u of each answer [B], so that the mean over all B answers has the gradient of L.

    A NaN reward and group -1 are left out, and get 0.

    Args:
        log_u: float32 [B], log policy - log anchor of whole answers.
        reward: float32 [B].
        lengths: [B], trained tokens of each answer.
        group: int64 [B].
    """
    graded = (group >= 0) & ~reward.isnan() & (lengths > 0)
    slopes, groups = torch.zeros_like(log_u), 0
    for number in group[graded].unique().tolist():
        members = graded & (group == number)
        gaps = reward[members][:, None] - reward[members][None]  # [winner, loser]
        weights = torch.where(gaps > EQUAL_REWARDS, gaps, 0.0)
        if weights.any():
            groups += 1
            slopes[members] = _slope(log_u[members], weights, lengths[members], cfg)
    return -slopes * (int(graded.sum()) / max(groups, 1))


def pair_loss(log_u: Tensor, weights: Tensor, lengths: Tensor, cfg: PairsConfig) -> Tensor:
    """Return the loss of one group of G answers, a scalar with gradient.

    Args:
        log_u: float32 [G].
        weights: float32 [G, G]: by how much the reward of answer i exceeds that of answer j; 0 where it does not.
        lengths: [G].
    """
    score = _score(cfg)
    if cfg.lengths == "shorter":
        shorter = torch.minimum(lengths[:, None], lengths[None])
        mean = log_u / lengths
        margins = score(shorter * mean[:, None]) - score(shorter * mean[None])
    elif cfg.winners == "together":
        scores, beaten = score(log_u), weights.sum(0)
        margins = (weights.T @ scores) / beaten.clamp(min=torch.finfo(beaten.dtype).tiny) - scores
        weights = beaten
    else:
        scores = score(log_u)
        margins = scores[:, None] - scores[None]
    chosen = weights > 0
    return (weights[chosen] * _loss(margins[chosen], cfg)).sum() / weights.sum()


def _slope(log_u: Tensor, weights: Tensor, lengths: Tensor, cfg: PairsConfig) -> Tensor:
    """Return the gradient of the loss of one group by log u [G]."""
    with torch.enable_grad():
        leaf = log_u.detach().requires_grad_()
        return torch.autograd.grad(pair_loss(leaf, weights, lengths, cfg), leaf)[0]


def _score(cfg: PairsConfig) -> Callable[[Tensor], Tensor]:
    """Return the function log u -> f'(u) - f'(1)."""
    function, limit = F_DIVERGENCES[cfg.divergence], math.inf if cfg.divergence == "reverse_kl" else LIMIT
    return lambda log_u: function(bounded(log_u, -limit, limit), cfg.alpha).slope


def _loss(margin: Tensor, cfg: PairsConfig) -> Tensor:
    if cfg.loss == "squared":
        return (margin - 1 / (2 * cfg.beta)).square()
    return -logsigmoid(cfg.beta * margin)
