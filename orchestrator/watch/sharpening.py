"""Compare a policy with its base at other temperatures: curves of the base, and the place of a measurement."""

from collections.abc import Mapping, Sequence

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


def power_curve(base: Measurement, k: int) -> BaseCurve | None:
    """Return the curve of the power distribution of the base over its exponents.

    Exponents without enough effective answers are left out. None if only 1 is left.

    Args:
        base: its measurement at temperature 1; at another one the answers are not those of the base's distribution.
    """
    assert base.temperature == 1, base.temperature
    log_probs = [np.array(p.log_probs) for p in base.prompts]
    correct = [p.correct for p in base.prompts]
    alphas = [a for a in ALPHAS if a == 1 or np.quantile(effective_answers(log_probs, a), 0.1) >= EFFECTIVE * k]
    if len(alphas) < 2:
        return None
    found = [power_passes(log_probs, correct, alpha, sorted({1, k})) for alpha in alphas]
    passes = {k: np.stack([of_alpha[k] for of_alpha in found]) for k in {1, k}}
    return BaseCurve(temperatures=tuple(1 / alpha for alpha in alphas), passes=passes)


def placements(policy: Measurement, base: BaseCurve, like: Measurement, ks: Sequence[int]) -> dict[int, Placement]:
    """Return the place of a policy against the curve of the base, for each k.

    Args:
        like: a measurement with the prompts of `base` in the same order.

    Raises:
        ValueError: the policy was measured on other prompts.
    """
    prompts = aligned(policy, like)
    passes: Mapping[int, np.ndarray] = {k: passes_at(prompts, k) for k in {1, *ks}}
    return {k: place(passes, base, k) for k in ks}
