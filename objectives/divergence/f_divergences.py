"""f-divergences D_f(policy || anchor) = E_anchor[f(u)], with u = policy / anchor.

Each function takes log u [M] and the parameter alpha and returns f(u), f'(u) - f'(1) and f'(1). All estimators are made
of these three numbers (`estimators.py`, `wiring/`). They use only operators and methods of log u, so that they also
compute with a `Number` (`number.py`), and this file loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from configs.divergences import DIVERGENCES

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class AtRatio:
    """A divergence's generator f at the ratios u of M tokens."""

    log_u: Tensor
    """log u [M], nats"""
    value: Tensor
    """f(u)"""
    slope: Tensor
    """f'(u) - f'(1): 0 where policy and anchor agree."""
    slope_at_one: float
    """f'(1)"""

    @property
    def above_tangent(self) -> Tensor:
        """f(u) minus its tangent at 1, f(u) - f'(1)(u - 1): never negative, and E_anchor of it is E_anchor[f(u)]."""
        return self.value - self.slope_at_one * self.log_u.expm1()


LOWEST = -20.0
"""Lower bound on log u where 1/u appears. Then e^40, its square in Neyman's divergence, and the square of that in the
gradient norm are finite in float32."""


def bounded(log_ratio: Tensor, low: float, high: float) -> Tensor:
    """Clamp the value of `log_ratio` but not its gradient, so that a token beyond the bound is still pulled back."""
    return log_ratio + (log_ratio.clamp(low, high) - log_ratio).detach()


def reverse_kl(log_u: Tensor, alpha: float) -> AtRatio:
    """f(u) = u log u: KL(policy || anchor), mode-seeking."""
    return AtRatio(log_u=log_u, value=log_u.exp() * log_u, slope=log_u, slope_at_one=1.0)


def forward_kl(log_u: Tensor, alpha: float) -> AtRatio:
    """f(u) = -log u: KL(anchor || policy), mass-covering."""
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


def generalised_jensen_shannon(log_u: Tensor, alpha: float) -> AtRatio:
    """b KL(anchor || m) + (1 - b) KL(policy || m), m = b anchor + (1 - b) policy, b = alpha: GKD, arXiv:2306.13649."""
    log_middle = ((1 - alpha) * log_u.expm1()).log1p()
    slope = (1 - alpha) * (log_u - log_middle)
    return AtRatio(log_u=log_u, value=log_u.exp() * slope - alpha * log_middle, slope=slope, slope_at_one=0.0)


def total_variation(log_u: Tensor, alpha: float) -> AtRatio:
    """f(u) = |u - 1| / 2: its slope is +1/2 or -1/2 at any distance."""
    return AtRatio(log_u=log_u, value=log_u.expm1().abs() / 2, slope=log_u.sign() / 2, slope_at_one=0.0)


def chi_squared(log_u: Tensor, alpha: float) -> AtRatio:
    """f(u) = (u - 1)^2, Pearson's chi2(policy || anchor): large where the policy is likelier than the anchor."""
    above = log_u.expm1()
    return AtRatio(log_u=log_u, value=above.square(), slope=2 * above, slope_at_one=0.0)


def neyman(log_u: Tensor, alpha: float) -> AtRatio:
    """f(u) = (u - 1)^2 / u, Neyman's chi2(anchor || policy): strongly mass-covering."""
    log_u = bounded(log_u, LOWEST, math.inf)
    value = log_u.expm1() + (-log_u).expm1()  # u + 1/u - 2
    return AtRatio(log_u=log_u, value=value, slope=-(-2 * log_u).expm1(), slope_at_one=0.0)


def hellinger(log_u: Tensor, alpha: float) -> AtRatio:
    """f(u) = (sqrt(u) - 1)^2, the squared Hellinger distance: between mass-covering and mode-seeking, at most 2."""
    value = (log_u / 2).expm1().square()
    return AtRatio(log_u=log_u, value=value, slope=-(-log_u / 2).expm1(), slope_at_one=0.0)


def jeffreys(log_u: Tensor, alpha: float) -> AtRatio:
    """f(u) = (u - 1) log u: the sum of the forward and the reverse KL."""
    return AtRatio(log_u=log_u, value=log_u.expm1() * log_u, slope=log_u - (-log_u).expm1(), slope_at_one=0.0)


def tsallis(log_u: Tensor, alpha: float) -> AtRatio:
    """f(u) = (u^q - u) / (q - 1), q = alpha: Tsallis KL, arXiv:2301.11476; q = 1 the reverse KL, q = 2 chi-squared."""
    if alpha == 1:
        return reverse_kl(log_u, alpha)
    value = ((alpha * log_u).expm1() - log_u.expm1()) / (alpha - 1)
    slope = alpha * ((alpha - 1) * log_u).expm1() / (alpha - 1)
    return AtRatio(log_u=log_u, value=value, slope=slope, slope_at_one=1.0)


def skew_kl(log_u: Tensor, alpha: float) -> AtRatio:
    """KL(anchor || a anchor + (1 - a) policy), DistiLLM's SKL, arXiv:2402.03898: mass-covering, at most log(1 / a)."""
    log_middle = ((1 - alpha) * log_u.expm1()).log1p()
    slope = -(1 - alpha) * (-log_middle).expm1()
    return AtRatio(log_u=log_u, value=-log_middle, slope=slope, slope_at_one=-(1 - alpha))


def skew_reverse_kl(log_u: Tensor, alpha: float) -> AtRatio:
    """KL(policy || (1 - a) anchor + a policy), DistiLLM's SRKL, arXiv:2402.03898: mode-seeking, at most log(1 / a)."""
    log_middle = (alpha * log_u.expm1()).log1p()
    slope = log_u - log_middle + (1 - alpha) * (-log_middle).expm1()
    return AtRatio(log_u=log_u, value=log_u.exp() * (log_u - log_middle), slope=slope, slope_at_one=1 - alpha)


F_DIVERGENCES: dict[str, Callable[[Tensor, float], AtRatio]] = {
    name: globals()[name] for name, row in DIVERGENCES.items() if row.is_f_divergence
}
"""The function of each f-divergence of `configs/divergences.py`; a name without a function fails at import."""
