"""The value, slope and curvature of every f-divergence as formulas, independent of the functions under test."""

from collections.abc import Callable

import torch
from torch import Tensor

from tests.objectives.divergence_settings import alphas

U = torch.tensor([0.01, 0.5, 0.9, 1.0, 1.1, 2.0, 50.0], dtype=torch.float64)
Formula = Callable[[Tensor, float], Tensor]

ON_POLICY: dict[str, Formula] = {
    "reverse_kl": lambda u, a: u.log() - 1 + 1 / u,
    "forward_kl": lambda u, a: 1 - (1 + u.log()) / u,
    "jensen_shannon": lambda u, a: (u.log() - (1 + 1 / u) * ((u + 1) / 2).log()) / 2,
    "generalised_jensen_shannon": lambda u, b: (
        -(b / u) * (b + (1 - b) * u).log() + (1 - b) * (u / (b + (1 - b) * u)).log()
    ),
    "total_variation": lambda u, a: (1 - 1 / u).abs() / 2,
    "chi_squared": lambda u, a: u - 2 + 1 / u,
    "neyman": lambda u, a: (1 - 1 / u) ** 2,
    "hellinger": lambda u, a: (1 - u**-0.5) ** 2,
    "alpha": lambda u, a: (u**-a - (1 - a) - a / u) / (a * (a - 1)),
    "jeffreys": lambda u, a: (1 - 1 / u) * u.log(),
    "tsallis": lambda u, q: (u ** (q - 1) - q + (q - 1) / u) / (q - 1) if q != 1 else u.log() - 1 + 1 / u,
    "skew_kl": lambda u, a: (-(a + (1 - a) * u).log() + (1 - a) * (u - 1)) / u,
    "skew_reverse_kl": lambda u, a: (u / ((1 - a) + a * u)).log() - (1 - a) * (1 - 1 / u),
}
"""(f(u) - f'(1) (u - 1)) / u: the estimate on tokens sampled from the policy."""

SLOPE: dict[str, Formula] = {
    "reverse_kl": lambda u, a: u.log() + 1,
    "forward_kl": lambda u, a: -1 / u,
    "jensen_shannon": lambda u, a: (2 * u / (u + 1)).log() / 2,
    "generalised_jensen_shannon": lambda u, b: (1 - b) * (u / (b + (1 - b) * u)).log(),
    "total_variation": lambda u, a: (u - 1).sign() / 2,
    "chi_squared": lambda u, a: 2 * (u - 1),
    "neyman": lambda u, a: 1 - 1 / u**2,
    "hellinger": lambda u, a: 1 - u**-0.5,
    "alpha": lambda u, a: (1 - u**-a) / a,
    "jeffreys": lambda u, a: u.log() + 1 - 1 / u,
    "tsallis": lambda u, q: (q * u ** (q - 1) - 1) / (q - 1) if q != 1 else u.log() + 1,
    "skew_kl": lambda u, a: -(1 - a) / (a + (1 - a) * u),
    "skew_reverse_kl": lambda u, a: (u / ((1 - a) + a * u)).log() + (1 - a) / ((1 - a) + a * u),
}
"""f'(u)."""

CURVATURE: dict[str, Callable[[float], float]] = {
    "reverse_kl": lambda a: 1,
    "forward_kl": lambda a: 1,
    "jensen_shannon": lambda a: 1 / 4,
    "generalised_jensen_shannon": lambda b: b * (1 - b),
    "chi_squared": lambda a: 2,
    "neyman": lambda a: 2,
    "hellinger": lambda a: 1 / 2,
    "alpha": lambda a: 1,
    "jeffreys": lambda a: 2,
    "tsallis": lambda q: q,
    "skew_kl": lambda a: (1 - a) ** 2,
    "skew_reverse_kl": lambda a: (1 - a) ** 2,
}
"""f''(1); total variation has none."""

CASES = [(name, alpha) for name in ON_POLICY for alpha in alphas(name)]
"""Every divergence that has formulas here, with each alpha to be tested."""
