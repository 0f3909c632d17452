"""Compare a policy with its base at other temperatures: curves of the base, and the place of a measurement."""

from collections.abc import Sequence

import numpy as np

from orchestrator.watch.frontier import BaseCurve, Placement, place
from orchestrator.watch.measurement import Measurement
from orchestrator.watch.passk import aligned, passes_at
from orchestrator.watch.power import effective_answers, power_passes

ALPHAS = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
"""Exponents of the power distribution."""
EFFECTIVE = 4
"""An exponent is used for k if 9 of 10 prompts have at least this times k effective answers."""


def temperature_curve(base: Sequence[Measurement], ks: Sequence[int]) -> BaseCurve:
    """Return the curve of the base over its temperatures. A temperature without graded answers is left out.

    Args:
        base: one measurement at each temperature, of the same prompts. The order of the first one's prompts is kept.
    """
    graded = [m for m in base if any(p.total for p in m.prompts)]
    falling = sorted(graded or base[:1], key=lambda m: -m.temperature)
    passes = {k: np.stack([passes_at(aligned(m, base[0]), k) for m in falling]) for k in {1, *ks}}
    return BaseCurve(temperatures=tuple(m.temperature for m in falling), passes=passes)


def power_curves(base: Measurement, ks: Sequence[int]) -> dict[int, BaseCurve]:
    """Return the curve of the power distribution of the base over its exponents, by k.

    Exponents without enough effective answers are left out, and each k for which only 1 is left.

    Args:
        base: its measurement at temperature 1; at another one the answers are not those of the base's distribution.
    """
    assert base.temperature == 1, base.temperature
    log_probs = [np.array(p.log_probs) for p in base.prompts]
    correct = [p.correct for p in base.prompts]
    effective = {alpha: np.quantile(effective_answers(log_probs, alpha), 0.1) for alpha in ALPHAS if alpha != 1}
    used = {alpha: {k for k in ks if most >= EFFECTIVE * k} for alpha, most in effective.items()}
    # With many answers the time grows with the largest k, so each exponent has only the k that it is used for.
    passes = {
        alpha: power_passes(log_probs, correct, alpha, sorted({1, *of_alpha})) for alpha, of_alpha in used.items()
    }
    passes[1.0] = {k: passes_at(base.prompts, k) for k in {1, *ks}}
    curves = {}
    for k in ks:
        alphas = [alpha for alpha in ALPHAS if alpha == 1 or k in used[alpha]]
        if len(alphas) > 1:
            of_k = {key: np.stack([passes[alpha][key] for alpha in alphas]) for key in {1, k}}
            curves[k] = BaseCurve(temperatures=tuple(1 / alpha for alpha in alphas), passes=of_k)
    return curves


def placement(policy: Measurement, base: BaseCurve, like: Measurement, k: int) -> Placement:
    """Return the place of a policy against the curve of the base, for one k.

    Args:
        like: a measurement with the prompts of `base` in the same order.

    Raises:
        ValueError: the policy was measured on other prompts.
    """
    prompts = aligned(policy, like)
    return place({key: passes_at(prompts, key) for key in {1, k}}, base, k)
