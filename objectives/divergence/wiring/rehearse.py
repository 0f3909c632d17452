"""Loss wiring on rehearsed answers (stored ones of the reference): f(u) at tokens sampled from the anchor itself.

With `logp_anchor` 0 the anchor is data that gives each token probability 1. Then D_f(policy || data) at a token is
f(p) + (1 - p) f'(inf), where p is the policy's probability of the token and f'(inf) = lim f(u) / u is the cost of each
unit of probability on other tokens: -log p for the forward KL, 1 - p for the total variation,
(1 - p^(1-a)) / (a (1 - a)) for alpha, 1 / p - 1 for Neyman's.
"""

import torch
from torch import Tensor

from configs.divergences import DIVERGENCES
from configs.terms import TermConfig
from objectives.divergence.estimators import HIGHEST
from objectives.divergence.f_divergences import F_DIVERGENCES, bounded
from objectives.divergence.wiring.term import TermTokens, Wiring
from trajectories.batch import Batch


def token_loss(cfg: TermConfig, logp: Tensor, logp_reference: Tensor) -> Tensor:
    """Return the loss per token [M], with gradient: f(u) for k1, f(u) - f'(1)(u - 1) for k3, f(u) - f'(inf)(u - 1) for
    supervised, (log u)^2 / 2 for k2.

    The subtracted tangents have mean 0 under the reference, so k1, k3 and supervised have the gradient of D_f. The
    gradient of k3 is 0 at every token where policy and reference agree; that of supervised never pushes a token down.
    k2 has its own: it regresses the log-probs of the answers on the reference's, whoever wrote them.

    Args: logp: float32 [M], nats, with gradient; logp_reference: float32 [M], nats.
    """
    # No lower bound: on answers of the reference u appears, and 1/u does not.
    log_u = bounded(logp - logp_reference, -torch.inf, HIGHEST)
    if cfg.estimator == "supervised":
        return above_asymptote(cfg.name, log_u, cfg.alpha)
    if cfg.estimator == "k2":
        return 0.5 * log_u.square()
    at = F_DIVERGENCES[cfg.name](log_u, cfg.alpha)
    assert cfg.estimator in ("k1", "k3"), f"no estimator {cfg.estimator} on rehearsed answers"
    return at.value if cfg.estimator == "k1" else at.above_tangent


def above_asymptote(name: str, log_u: Tensor, alpha: float) -> Tensor:
    """Return f(u) - f'(inf) (u - 1) [M], which never rises in u: D_f(policy || data) where u is the probability."""
    at = F_DIVERGENCES[name](log_u, alpha)
    return at.value - DIVERGENCES[name].slope_at_infinity(alpha) * at.log_u.expm1()


def rehearsal_factor(batch: Batch, term: TermConfig) -> float:
    """Return the factor of a term on rehearsed answers: 1, or with `by_answer_ratio` rehearsed over explored answers.

    The ratio is that of the official code of DPH-RL (arXiv:2509.07430), which weighs microbatches of both kinds
    equally. In a batch without explored answers it is 1.
    """
    explored, rehearsed = batch.totals["explore"].trajectories, batch.totals["rehearse"].trajectories
    return rehearsed / explored if term.weighting == "by_answer_ratio" and explored else 1.0


def _loss(term: TermTokens) -> Tensor:
    return term.mean(token_loss(term.cfg, term.logp, term.logp_anchor))


def _values(term: TermTokens) -> Tensor:
    return token_loss(term.cfg, term.logp.detach(), term.logp_anchor)


WIRING = Wiring(loss=_loss, values=_values)
