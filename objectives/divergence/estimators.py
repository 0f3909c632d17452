"""Quantities that several estimators of an f-divergence have in common, on M tokens that the policy sampled.

Derivations: f-DPG, arXiv:2302.08215. All values are in nats per token, at the prefixes of the batch.
"""

from torch import Tensor

from configs.terms import TermConfig
from objectives.divergence.f_divergences import F_DIVERGENCES, LOWEST, AtRatio, bounded

HIGHEST = 20.0
"""Upper bound on log u where u appears. Beyond it a single token of weight u would dominate the gradient of the
step."""


def at_sampled_tokens(cfg: TermConfig, logp: Tensor, logp_anchor: Tensor) -> AtRatio:
    """Evaluate the term's f at u = policy / anchor of tokens sampled from the policy.

    Args:
        logp, logp_anchor: float32 [M], nats.
    """
    return F_DIVERGENCES[cfg.name](bounded(logp - logp_anchor, LOWEST, HIGHEST), cfg.alpha)


def slope(cfg: TermConfig, logp: Tensor, logp_anchor: Tensor) -> Tensor:
    """Return f'(u) - f'(1) [M], or f'(u) with `normalised`, detached: the penalty of the reward and joint wirings.

    E_policy[(f'(u) - f'(1)) grad log policy] is the gradient of D_f. For the reverse KL the penalty is k1, log u.
    """
    at = at_sampled_tokens(cfg, logp.detach(), logp_anchor)
    return at.slope + at.slope_at_one if cfg.normalised else at.slope


def sampled_value(cfg: TermConfig, logp: Tensor, logp_anchor: Tensor) -> Tensor:
    """Return (f(u) - f'(1)(u - 1)) / u [M], detached: the unbiased, never negative estimate of D_f that is logged."""
    at = at_sampled_tokens(cfg, logp.detach(), logp_anchor)
    return at.above_tangent * (-at.log_u).exp()
