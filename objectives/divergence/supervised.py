"""Supervised training by any f-divergence: stored answers as data that is certain of every token.

With probability 1 on the token y, D_f(policy || data) = f(p) + (1 - p) f'(inf): p is what the policy gives y, and
f'(inf) = lim f(u) / u is what each unit of probability on other tokens costs, where the data has none. -log p for the
forward KL, 1 - p for the total variation, (1 - p^(1-a)) / (a (1 - a)) for alpha, 1 / p - 1 for Neyman's.
"""

import math
from collections.abc import Callable

from torch import Tensor

from objectives.divergence.f_divergences import DIVERGENCES

SLOPE_AT_INFINITY: dict[str, Callable[[float], float]] = {
    "forward_kl": lambda alpha: 0.0,
    "jensen_shannon": lambda alpha: math.log(2) / 2,
    "generalised_jensen_shannon": lambda alpha: -(1 - alpha) * math.log(1 - alpha),
    "alpha": lambda alpha: 1 / alpha,
    "total_variation": lambda alpha: 0.5,
    "neyman": lambda alpha: 1.0,
    "hellinger": lambda alpha: 1.0,
    "tsallis": lambda alpha: 1 / (1 - alpha),
    "skew_kl": lambda alpha: 0.0,
    "skew_reverse_kl": lambda alpha: -math.log(alpha),
}
"""f'(inf) of the divergences of `configs.supervised.SUPERVISED`, by their alpha."""


def above_asymptote(name: str, log_u: Tensor, alpha: float) -> Tensor:
    """f(u) - f'(inf) (u - 1) [N], never rising in u: D_f(policy || data) in nats where u is the policy's probability.

    On answers drawn from a reference that u is the ratio to, it has the mean and the gradient of D_f as f itself has.
    """
    at = DIVERGENCES[name](log_u, alpha)
    return at.value - SLOPE_AT_INFINITY[name](alpha) * at.log_u.expm1()
