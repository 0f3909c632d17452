"""What the estimators of a divergence do: values that are reported, penalties on the advantage, token losses.

Every estimator is made of three numbers per token, f(u), f'(u) - f'(1) and f'(1), so none of them knows a divergence by
name (k2, and k3 on the policy's own answers, are written for the reverse KL, and the config allows them for nothing
else). All values are in nats per token, at the prefixes visited. Derivations: f-DPG, arXiv:2302.08215.
"""

import torch
from torch import Tensor

from configs.terms import DivergenceConfig
from objectives.divergence.f_divergences import DIVERGENCES, LOWEST, AtRatio, bounded
from objectives.divergence.supervised import above_asymptote
from objectives.policy_gradient.ratios import ratio_of

HIGHEST = 20.0
"""Bound on log u where u appears: beyond it one token, weighted u, would own the whole step without saying more."""
ANSWER_LIMIT = 10.0
"""Bound on |log u| of whole answers, beyond which exp goes on along its tangent (official code of arXiv:2403.03185)."""
ROOT_FLOOR = 1e-4
"""Least divergence of which a square root is taken; below it the root has no slope (the same code)."""


def _on_own_answers(cfg: DivergenceConfig, logp: Tensor, logp_anchor: Tensor) -> AtRatio:
    return DIVERGENCES[cfg.name](bounded(logp - logp_anchor, LOWEST, HIGHEST), cfg.alpha)


def slope(cfg: DivergenceConfig, logp: Tensor, logp_anchor: Tensor) -> Tensor:
    """f'(u) - f'(1) [N], or f'(u) if normalised, detached: `coefficient` times it is taken off each token's advantage.

    E_pi[(f'(u) - f'(1)) grad log pi] is the gradient of D_f; for the reverse KL the penalty is k1, log u.
    """
    at = _on_own_answers(cfg, logp.detach(), logp_anchor)
    return at.slope + at.slope_at_one if cfg.normalised else at.slope


def own_answers_value(cfg: DivergenceConfig, logp: Tensor, logp_anchor: Tensor) -> Tensor:
    """(f(u) - f'(1)(u - 1)) / u [N], detached: the unbiased, never negative estimate of D_f that is reported."""
    at = _on_own_answers(cfg, logp.detach(), logp_anchor)
    return at.above_tangent * (-at.log_u).exp()


def own_answers_loss(cfg: DivergenceConfig, logp: Tensor, logp_anchor: Tensor, logp_old: Tensor) -> Tensor:
    """Differentiable token terms [N] on answers the policy gave (loss wiring).

    k2 and straight_through have the gradient of D_f on policy; k3 (reverse KL only) that of the forward KL;
    ratio_weighted that of D_f on answers of any policy whose log-probs are `logp_old`.
    """
    at = _on_own_answers(cfg, logp, logp_anchor)
    if cfg.estimator == "k2":
        return 0.5 * at.log_u.square()
    above = at.value if cfg.normalised else at.above_tangent
    per_draw = above * (-at.log_u).exp()
    if cfg.estimator in ("k3", "naive"):
        return per_draw
    if cfg.estimator == "straight_through":
        return per_draw.detach() + at.slope.detach() * (logp - logp.detach())
    assert cfg.estimator == "ratio_weighted", f"no loss wiring for {cfg.estimator}"
    return ratio_of(logp, logp_old) * per_draw


def stored_answers_loss(cfg: DivergenceConfig, logp: Tensor, logp_reference: Tensor) -> Tensor:
    """Differentiable token terms [N] on answers the reference gave: f(u) for k1, f(u) - f'(1)(u - 1) for k3,
    f(u) - f'(inf)(u - 1) for supervised.

    All have the gradient of D_f; that of k3 is 0 token by token where policy and reference agree. Where
    `logp_reference` is 0, supervised is the divergence to data that is certain of its token: for forward_kl cross
    entropy, as is k1.
    """
    log_u = bounded(logp - logp_reference, -torch.inf, HIGHEST)
    if cfg.estimator == "supervised":
        return above_asymptote(cfg.name, log_u, cfg.alpha)
    at = DIVERGENCES[cfg.name](log_u, cfg.alpha)
    assert cfg.estimator in ("k1", "k3"), f"no estimator {cfg.estimator} on stored answers"
    return at.value if cfg.estimator == "k1" else at.above_tangent


def to_go(cfg: DivergenceConfig, logp: Tensor, logp_anchor: Tensor, weights: Tensor, seq: Tensor) -> Tensor:
    """What `slope` is, less prefixes held fixed [N]: a token's own slope, and f(u)/u of all tokens after it.

    The gradient of E_pi[sum_t w_t D_f(t)] is E_pi[sum_t (w_t f'(u_t) + sum_{s > t} w_s f(u_s) / u_s) grad log pi_t]:
    for the reverse KL, k1 summed to the end. `weights` [N]; `seq` [N] says which answer a token belongs to, ascending.
    """
    at = _on_own_answers(cfg, logp.detach(), logp_anchor)
    own, later = weights * slope(cfg, logp, logp_anchor), weights * at.value * (-at.log_u).exp()
    # Answer by answer: a difference of running sums over the batch would lose small answers behind large ones.
    answers = later.split(torch.bincount(seq).tolist())
    after = [torch.cat([a[1:].flip(0).cumsum(0).flip(0), a.new_zeros(min(len(a), 1))]) for a in answers]
    return own + torch.cat([later.new_zeros(0), *after])


def answer_log_ratio(logp: Tensor, logp_anchor: Tensor, seq: Tensor, trajectories: int) -> Tensor:
    """[B]: log u of whole answers, the sum over their tokens [N]; 0 for an answer without one."""
    return logp.new_zeros(trajectories).index_add(0, seq, logp - logp_anchor)


def linear_exp(log_value: Tensor, cap: float = ANSWER_LIMIT) -> Tensor:
    """exp, continued along its tangent above `cap`, so that a long answer neither overflows nor loses its pull."""
    inside = log_value.clamp(max=cap).exp()
    return inside + torch.where(log_value > cap, torch.exp(log_value.new_tensor(cap)) * (log_value - cap), 0.0)


def answer_slope(cfg: DivergenceConfig, log_u: Tensor) -> Tensor:
    """[B]: the penalty f'(u) - f'(1) of whole answers, detached; with `root`, over the spread of the batch.

    grad sqrt(chi2) = E[u grad log pi] / sqrt(chi2), so with `root` the penalty is half the slope over the square root,
    less its mean, a baseline. Chi-squared regularisation: arXiv:2403.03185.
    """
    at = DIVERGENCES[cfg.name](log_u.detach().clamp(-ANSWER_LIMIT, ANSWER_LIMIT), cfg.alpha)
    if not cfg.root:
        return at.slope
    return (at.slope - at.slope.mean()) * root_slope(answer_value(cfg, log_u))


def answer_value(cfg: DivergenceConfig, log_u: Tensor) -> Tensor:
    """[B]: unbiased, never negative estimate of the divergence between whole answers; differentiable.

    For chi-squared u - 2 + 1/u, exponentials continued along their tangents.
    """
    if cfg.name == "chi_squared":
        return (linear_exp(log_u) - 1) + (linear_exp(-log_u) - 1)
    at = DIVERGENCES[cfg.name](bounded(log_u, -ANSWER_LIMIT, ANSWER_LIMIT), cfg.alpha)
    return at.above_tangent * (-at.log_u).exp()


def root_slope(values: Tensor) -> Tensor:
    """Slope of the square root at the batch's mean divergence, 0 below the floor: a scalar, detached."""
    mean = values.detach().mean() if len(values) else values.new_zeros(())
    return torch.where(mean > ROOT_FLOOR, 0.5 / mean.clamp(min=ROOT_FLOOR).sqrt(), 0.0)
