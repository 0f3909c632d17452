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
from objectives.advantage.estimators import explored_and_graded
from objectives.divergence.f_divergences import F_DIVERGENCES, bounded
from trajectories.batch import groups_of
from trajectories.trajectory import EQUAL_REWARDS

LIMIT = 10.0
"""Bound on |log u| in the slope of every divergence but the reverse KL: others grow with a power of u or 1 / u."""


def pair_advantages(
    log_u: Tensor,
    reward: Tensor,
    lengths: Tensor,
    group: Tensor,
    cfg: PairsConfig,
    values: Tensor | None = None,
    solution: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return -B dL / dlog u of each answer [B], the advantage, and B dL / dv [B], the weight of the term of the pairs.

    The factor B is that of the loss, a mean over all B graded answers. A NaN reward and group -1 are left out, and get
    0; a solution has no reward but takes part.

    Args:
        log_u: float32 [B], log policy - log anchor of whole answers.
        reward: float32 [B].
        lengths: [B], trained tokens of each answer.
        group: int64 [B].
        values: float32 [B], v, the sum of the term of the pairs over each answer, times its coefficient; None: 0.
        solution: bool [B], see `pairs_of`.
    """
    values = torch.zeros_like(log_u) if values is None else values
    slopes, found = log_u.new_zeros(2, len(log_u)), pairs_of(reward, lengths, group, solution)
    for members, weights in found:
        slopes[:, members] = _slopes(log_u[members], values[members], weights, lengths[members], cfg)
    by_log_u, by_value = slopes * (int(graded_answers(reward, lengths, group).sum()) / max(len(found), 1))
    return -by_log_u, by_value


def graded_answers(reward: Tensor, lengths: Tensor, group: Tensor) -> Tensor:
    """Return the answers that a loss of pairs counts, bool [B]: those with a reward and a trained token."""
    return explored_and_graded(reward, group) & (lengths > 0)


def pairs_of(
    reward: Tensor, lengths: Tensor, group: Tensor, solution: Tensor | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Return for each group that has a pair its answers, int64 [G], and the weights of their pairs [winner, loser].

    Args:
        solution: bool [B], for winners=solution: the answers of the task, which win against all others of their group.
    """
    graded = graded_answers(reward, lengths, group)
    score = reward if solution is None else solution.to(reward.dtype)
    paired, found = graded if solution is None else graded | solution, []
    for of_group in groups_of(group):
        members = of_group[paired[of_group]]
        gaps = score[members][:, None] - score[members][None]
        weights = torch.where(gaps > EQUAL_REWARDS, gaps, 0.0)
        if weights.any():
            found.append((members, weights))
    return found


def pair_loss(
    log_u: Tensor,
    weights: Tensor,
    lengths: Tensor,
    cfg: PairsConfig,
    won: Tensor | float = 0.0,
    lost: Tensor | float = 0.0,
) -> Tensor:
    """Return the loss of one group of G answers, a scalar with gradient.

    Args:
        log_u: float32 [G].
        weights: float32 [G, G]: by how much the reward of answer i exceeds that of answer j; 0 where it does not.
        lengths: [G].
        won, lost: float32 [G], added to the score of an answer in the pairs that it wins, and in those that it loses.
    """
    score = _score(cfg)
    if cfg.lengths == "shorter":
        shorter = torch.minimum(lengths[:, None], lengths[None])
        mean = log_u / lengths
        margins = score(shorter * mean[:, None]) - score(shorter * mean[None])
    elif cfg.winners == "together":
        beaten = weights.sum(0)
        winners = weights.T @ (score(log_u) + won) / beaten.clamp(min=torch.finfo(beaten.dtype).tiny)
        margins, weights = winners - score(log_u) - lost, beaten
    else:
        margins = (score(log_u) + won)[:, None] - (score(log_u) + lost)[None]
    chosen = weights > 0
    return (weights[chosen] * _loss(margins[chosen], cfg)).sum() / weights.sum()


def _slopes(log_u: Tensor, values: Tensor, weights: Tensor, lengths: Tensor, cfg: PairsConfig) -> Tensor:
    """Return the gradients of the loss of one group by log u and by the values that are trained on, [2, G]."""
    with torch.enable_grad():
        leaf, won, lost = (column.detach().clone().requires_grad_() for column in (log_u, values, values))
        loss = pair_loss(leaf, weights, lengths, cfg, won, lost)
        by_log_u, by_won, by_lost = torch.autograd.grad(loss, (leaf, won, lost), allow_unused=True)
    if not cfg.term:
        return torch.stack([by_log_u, torch.zeros_like(by_log_u)])
    return torch.stack([by_log_u, by_lost + by_won if cfg.term_on == "both" else by_lost])


def _score(cfg: PairsConfig) -> Callable[[Tensor], Tensor]:
    """Return the function log u -> f'(u) - f'(1)."""
    function, limit = F_DIVERGENCES[cfg.divergence], math.inf if cfg.divergence == "reverse_kl" else LIMIT
    return lambda log_u: function(bounded(log_u, -limit, limit), cfg.alpha).slope


def _loss(margin: Tensor, cfg: PairsConfig) -> Tensor:
    if cfg.loss == "squared":
        return (margin - 1 / (2 * cfg.beta)).square()
    return -logsigmoid(cfg.beta * margin)
