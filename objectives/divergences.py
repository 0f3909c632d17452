"""f-divergences D_f(policy || reference) = E_reference[f(u)], u = pi / pi_reference, and what their estimators do.

To add one: write its function here, add the name to `configs.objective_schema.DivergenceName`, and test it. Every
estimator is made of three numbers per token, f(u), f'(u) - f'(1) and f'(1), so none of them knows a divergence by name
(k2, and k3 on the policy's own answers, are written for the reverse KL, and the config allows them for nothing else).
All values are in nats per token, at the prefixes visited. Derivations: f-DPG, arXiv:2302.08215.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from configs.objective_schema import DivergenceConfig, DivergenceName
from objectives.ratios import ratio_of

HIGHEST = 20.0
"""Bound on log u where u appears: beyond it one token, weighted u, would own the whole step without saying more."""
LOWEST = -40.0
"""Bound on log u where 1/u appears (the policy's own answers): e^40 and its square, which the gradient norm takes, are
finite in float32. Stored answers need no lower bound."""


@dataclass(frozen=True)
class AtRatio:
    """One divergence at the ratios u of some tokens [N]."""

    log_u: Tensor
    value: Tensor
    """f(u)"""
    slope: Tensor
    """f'(u) - f'(1): 0 where policy and reference agree."""
    slope_at_one: float
    """f'(1)"""

    @property
    def above_tangent(self) -> Tensor:
        """f(u) - f'(1)(u - 1): never negative, and of the same mean as f(u) on answers of the reference."""
        return self.value - self.slope_at_one * self.log_u.expm1()


def reverse_kl(log_u: Tensor, alpha: float) -> AtRatio:
    """f(u) = u log u: KL(policy || reference), mode-seeking."""
    return AtRatio(log_u=log_u, value=log_u.exp() * log_u, slope=log_u, slope_at_one=1.0)


def forward_kl(log_u: Tensor, alpha: float) -> AtRatio:
    """f(u) = -log u: KL(reference || policy), mass-covering."""
    return AtRatio(log_u=log_u, value=-log_u, slope=-(-log_u).expm1(), slope_at_one=-1.0)


def jensen_shannon(log_u: Tensor, alpha: float) -> AtRatio:
    """f(u) = (u log u - (u + 1) log((u + 1) / 2)) / 2: half of DPH-RL's generator; at most log 2."""
    log_middle = (log_u.expm1() / 2).log1p()  # log((u + 1) / 2)
    value = 0.5 * (log_u.exp() * (log_u - log_middle) - log_middle)
    return AtRatio(log_u=log_u, value=value, slope=0.5 * (log_u - log_middle), slope_at_one=0.0)


def alpha(log_u: Tensor, alpha: float) -> AtRatio:
    """f(u) = (u^(1-a) - (1-a) u - a) / (a (a - 1)), 0 < a < 1: a to 0 is the reverse KL, a to 1 the forward KL."""
    value = (((1 - alpha) * log_u).expm1() - (1 - alpha) * log_u.expm1()) / (alpha * (alpha - 1))
    return AtRatio(log_u=log_u, value=value, slope=-(-alpha * log_u).expm1() / alpha, slope_at_one=0.0)


DIVERGENCES: dict[str, Callable[[Tensor, float], AtRatio]] = {
    name: globals()[name] for name in get_args(DivergenceName) if name != "none"
}


def bounded(log_ratio: Tensor, low: float, high: float) -> Tensor:
    """`log_ratio` clamped in value while its gradient passes: a token beyond the bound is still pulled back."""
    return log_ratio + (log_ratio.clamp(low, high) - log_ratio).detach()


def _on_own_answers(cfg: DivergenceConfig, logp: Tensor, logp_reference: Tensor) -> AtRatio:
    return DIVERGENCES[cfg.name](bounded(logp - logp_reference, LOWEST, HIGHEST), cfg.alpha)


def reward_penalty(cfg: DivergenceConfig, logp: Tensor, logp_reference: Tensor) -> Tensor:
    """f'(u) - f'(1) [N], detached: `coefficient` times it is taken off each token's advantage.

    E_pi[(f'(u) - f'(1)) grad log pi] is the gradient of D_f; for the reverse KL the penalty is k1, log u.
    """
    return _on_own_answers(cfg, logp, logp_reference).slope.detach()


def own_answers_value(cfg: DivergenceConfig, logp: Tensor, logp_reference: Tensor) -> Tensor:
    """(f(u) - f'(1)(u - 1)) / u [N], detached: the unbiased, never negative estimate of D_f that is reported."""
    at = _on_own_answers(cfg, logp.detach(), logp_reference)
    return at.above_tangent * (-at.log_u).exp()


def own_answers_loss(cfg: DivergenceConfig, logp: Tensor, logp_reference: Tensor, logp_old: Tensor) -> Tensor:
    """Differentiable token terms [N] on answers the policy gave (loss wiring).

    k2 and straight_through have the gradient of D_f on policy; k3 (reverse KL only) that of the forward KL;
    ratio_weighted that of D_f on answers of any policy whose log-probs are `logp_old`.
    """
    at = _on_own_answers(cfg, logp, logp_reference)
    if cfg.estimator == "k2":
        return 0.5 * at.log_u.square()
    per_draw = at.above_tangent * (-at.log_u).exp()
    if cfg.estimator == "k3":
        return per_draw
    if cfg.estimator == "straight_through":
        return per_draw.detach() + at.slope.detach() * (logp - logp.detach())
    assert cfg.estimator == "ratio_weighted", f"no loss wiring for {cfg.estimator}"
    return ratio_of(logp, logp_old) * per_draw


def stored_answers_loss(cfg: DivergenceConfig, logp: Tensor, logp_reference: Tensor) -> Tensor:
    """Differentiable token terms [N] on answers the reference gave: f(u) for k1, f(u) - f'(1)(u - 1) for k3.

    Both have the gradient of D_f; that of k3 is 0 token by token where policy and reference agree. forward_kl with k1
    is -log(pi / pi_reference), hence cross entropy where `logp_reference` is 0.
    """
    at = DIVERGENCES[cfg.name](bounded(logp - logp_reference, -torch.inf, HIGHEST), cfg.alpha)
    assert cfg.estimator in ("k1", "k3"), f"no estimator {cfg.estimator} on stored answers"
    return at.value if cfg.estimator == "k1" else at.above_tangent


def describe(cfg: DivergenceConfig) -> str:
    """In words, the gradient the setting really has, which is not always that of the value it is named after."""
    if cfg.name == "none":
        return "no divergence: nothing holds the policy near the reference"
    kl = cfg.name.endswith("_kl")
    name = cfg.name.replace("_kl", " KL") if kl else f"{cfg.name.replace('_', '-').title()} divergence"
    if cfg.name == "alpha":
        name += f" (alpha = {cfg.alpha})"
    if cfg.samples == "rehearsal":
        return f"on stored reference answers: {_describe_stored(cfg, name)}"
    return f"on the policy's own answers: {_describe_own(cfg, name)}"


def _describe_stored(cfg: DivergenceConfig, name: str) -> str:
    log_u = torch.tensor(-10.0, dtype=torch.float64)
    pull = float(log_u.exp() * DIVERGENCES[cfg.name](log_u, cfg.alpha).slope)
    lost = f"weight on grad log pi is {pull:.2g} where the policy has all but lost an answer (u = e^-10)"
    if cfg.estimator == "k3":
        return f"exact gradient of the {name}, 0 at every token where policy and reference agree; {lost}"
    likelihood = " (negative log-likelihood, weight -1 everywhere)" if cfg.name == "forward_kl" else ""
    return f"gradient of the {name}, exact in expectation, from f as it is{likelihood}; less its mean, {lost}"


def _describe_own(cfg: DivergenceConfig, name: str) -> str:
    fresh = "for answers of the current policy (stale ones bias it)"
    if cfg.wiring == "reward":
        return (
            f"exact gradient of the {name} with prefixes held fixed, {fresh}; f'(u) - f'(1) is taken off each token's "
            "advantage, so a clip of the ratio applies to it too"
        )
    if cfg.estimator == "k3":
        return (
            f"the value is the {name}, the gradient is that of the forward KL(reference || policy), "
            f"{fresh}: a pull towards what the reference says, not the mode-seeking one of the value"
        )
    if cfg.estimator == "ratio_weighted":
        return (
            f"exact gradient of the {name} with prefixes held fixed, also for stale answers (weighted by pi / pi_old)"
        )
    return f"exact gradient of the {name} with prefixes held fixed, {fresh}"
