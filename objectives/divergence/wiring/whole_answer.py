"""Sequence level: the divergence between whole answers, in the reward or in the loss.

u of an answer is the product of its tokens' ratios. Chi-squared regularisation: arXiv:2403.03185.
"""

import torch
from torch import Tensor

from configs.terms import TermConfig
from objectives.divergence.f_divergences import F_DIVERGENCES, bounded
from objectives.divergence.wiring.term import TermTokens, Wiring
from objectives.reduce import sum_by_trajectory

LIMIT = 10.0
"""Bound on |log u| of an answer. Beyond it exp continues along its tangent (official code of arXiv:2403.03185)."""
ROOT_FLOOR = 1e-4
"""Least divergence of which a square root is taken. Below it the root has slope 0 (official code)."""


def linear_exp(log_value: Tensor, cap: float = LIMIT) -> Tensor:
    """Return exp, continued along its tangent above `cap`, so that a long answer neither overflows nor loses its
    gradient."""
    inside = log_value.clamp(max=cap).exp()
    return inside + torch.where(log_value > cap, torch.exp(log_value.new_tensor(cap)) * (log_value - cap), 0.0)


def answer_slope(cfg: TermConfig, log_u: Tensor) -> Tensor:
    """Return the penalty f'(u) - f'(1) of whole answers [B], detached.

    With `root` it is half the slope over the square root of the batch's mean divergence, minus its mean (a baseline),
    because grad sqrt(chi2) = E[u grad log pi] / sqrt(chi2).
    """
    at = F_DIVERGENCES[cfg.name](log_u.detach().clamp(-LIMIT, LIMIT), cfg.alpha)
    if not cfg.root:
        return at.slope
    return (at.slope - at.slope.mean()) * root_slope(answer_value(cfg, log_u))


def answer_value(cfg: TermConfig, log_u: Tensor) -> Tensor:
    """Return the unbiased, never negative estimate of the divergence between whole answers [B], with gradient.

    For chi-squared it is u - 2 + 1/u, whose exponentials continue along their tangents.
    """
    if cfg.name == "chi_squared":
        return (linear_exp(log_u) - 1) + (linear_exp(-log_u) - 1)
    at = F_DIVERGENCES[cfg.name](bounded(log_u, -LIMIT, LIMIT), cfg.alpha)
    return at.above_tangent * (-at.log_u).exp()


def root_slope(values: Tensor) -> Tensor:
    """Return the slope of the square root at the mean of `values` [B]: a detached scalar, 0 below the floor."""
    mean = values.detach().mean() if len(values) else values.new_zeros(())
    return torch.where(mean > ROOT_FLOOR, 0.5 / mean.clamp(min=ROOT_FLOOR).sqrt(), 0.0)


def _log_u(term: TermTokens) -> tuple[Tensor, Tensor]:
    """Return log u of the trajectories that have a token of the term, and which of the B trajectories these are."""
    log_u = sum_by_trajectory(term.logp - term.logp_anchor, term.seq, term.trajectories)
    present = torch.bincount(term.seq, minlength=term.trajectories) > 0
    return log_u[present], present


def _penalty(term: TermTokens) -> Tensor:
    log_u, present = _log_u(term)
    by_trajectory = log_u.new_zeros(term.trajectories)
    by_trajectory[present] = answer_slope(term.cfg, log_u)
    return by_trajectory[term.seq]


def _loss(term: TermTokens) -> Tensor:
    values = answer_value(term.cfg, _log_u(term)[0])
    return term.factor * values.sum() / max(term.total_trajectories, 1)


def _factor(term: TermTokens) -> float:
    return float(root_slope(answer_value(term.cfg, _log_u(term)[0]))) if term.cfg.root else 1.0


def _values(term: TermTokens) -> Tensor:
    return answer_value(term.cfg, _log_u(term)[0]).detach()


REWARD = Wiring(credited_penalty=_penalty, values=_values)
LOSS = Wiring(loss=_loss, factor=_factor, values=_values)
