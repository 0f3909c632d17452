"""The sharpening frontier: the Pass@1 and Pass@k that the base reaches at other temperatures, at no cost.

A policy has learned something only where no temperature of the base is as good in both. For one k, a temperature is a
point (Pass@1, Pass@k); temperatures form a curve, down to greedy decoding. Pure functions on numpy arrays. Axes: S
measured temperatures, F points of the interpolated curve, P prompts, R bootstrap resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.interpolate import PchipInterpolator

from orchestrator.watch.bootstrap import UNDEFINED, Interval, interval, prompt_weights, weighted_means

POINTS_BETWEEN = 8
"""Points of the interpolated curve from one measured temperature to the next."""
ROUNDING = 1e-9
"""Differences up to this are rounding: a policy equal to the base is on its frontier."""

Word = Literal["beyond", "on", "below", "not measured"]
Passes = Mapping[int, np.ndarray]
"""k -> Pass@k per prompt, float64 [P], or [S, P] for several temperatures; NaN where a prompt has fewer than k graded
answers."""


@dataclass(frozen=True, kw_only=True)
class BaseCurve:
    """Pass@k of the base at several temperatures, or of its power distribution at several exponents."""

    temperatures: tuple[float, ...]
    """Falling [S]; of the power distribution p^alpha: 1 / alpha."""
    passes: Passes
    """Pass@k at each temperature of each prompt [S, P]; k = 1 is among them."""

    def __post_init__(self) -> None:
        assert list(self.temperatures) == sorted(set(self.temperatures), reverse=True), self.temperatures
        assert 1 in self.passes, "the frontier needs Pass@1"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a policy lies against the frontier of the base, for one k. In each resample the frontier is made anew.

    In every resample a positive margin means that both differences are positive, and a negative one that both are
    negative. A margin of 0 is a tie in one of the two; the other may be far behind.
    """

    margin: Interval
    """min over the temperatures t of the base of max(Pass@1 - Pass@1_t, Pass@k - Pass@k_t). Positive: every temperature
    of the base is worse by at least this in Pass@1 or in Pass@k. Negative: some temperature is better by at least this
    in both."""
    pass_k_above: Interval
    """Pass@k minus the highest Pass@k of the base at this Pass@1 or more; infinite if it never has this Pass@1."""
    pass_1_above: Interval
    """Pass@1 minus the highest Pass@1 of the base at this Pass@k or more; infinite if it never has this Pass@k."""

    @property
    def word(self) -> Word:
        """`beyond` if the interval of the margin is above 0, `below` if it is below 0, else `on`.

        It is also `below` if the margin is nowhere positive and one of the two differences is below 0: at a tie, as
        where both have Pass@k = 1.
        """
        if not self.margin.prompts:
            return "not measured"
        if self.margin.low > ROUNDING:
            return "beyond"
        behind = min(self.pass_k_above.high, self.pass_1_above.high) < -ROUNDING
        return "below" if self.margin.high < -ROUNDING or (self.margin.high <= ROUNDING and behind) else "on"

    @property
    def unreached(self) -> bool:
        """Whether no temperature of the base has the policy's Pass@1 in 97.5 % of the resamples: it is then beyond the
        frontier by definition."""
        return self.pass_k_above.low == np.inf


def place(policy: Passes, base: BaseCurve, k: int) -> Placement:
    """Place a policy against the frontier of the base.

    Between two measured temperatures, Pass@1 and Pass@k of the base are monotone cubics of the temperature (PCHIP).

    Args:
        policy: Pass@k per prompt [P], k = 1 among them.
        base: of the same prompts, in the same order.

    Source: the margin is the additive epsilon indicator of Zitzler et al. (IEEE TEVC 7(2), 2003) of one point.
    """
    known = np.isfinite([policy[1], policy[k]]).all(0) & _known(base, k)
    prompts = int(known.sum())
    if not prompts:
        return Placement(margin=UNDEFINED, pass_k_above=UNDEFINED, pass_1_above=UNDEFINED)
    draws = prompt_weights(known)
    x, y = (weighted_means(policy[key], draws) for key in (1, k))  # [1 + R] each
    curve_x, curve_y = (
        _interpolated(base.temperatures, weighted_means(base.passes[key], draws)) for key in (1, k)
    )  # [F, 1 + R]
    values = {
        "margin": _margin(x - curve_x, y - curve_y),
        "pass_k_above": y - _highest(curve_x, curve_y, x),
        "pass_1_above": x - _highest(curve_y, curve_x, y),
    }
    return Placement(**{name: interval(v[0], v[1:], prompts) for name, v in values.items()})


@dataclass(frozen=True, kw_only=True)
class Line:
    """The interpolated curve of one k, with the 95 % interval of Pass@k at every point [F]; the hottest last."""

    pass_1: list[float]
    pass_k: list[float]
    low: list[float]
    high: list[float]


def line(base: BaseCurve, k: int) -> Line:
    """Return the curve of the base as a line and its band, for a figure; no points if no prompt is known."""
    known = _known(base, k)
    if not known.any():
        return Line(pass_1=[], pass_k=[], low=[], high=[])
    draws = prompt_weights(known)
    x, y = (_interpolated(base.temperatures, weighted_means(base.passes[key], draws)) for key in (1, k))
    intervals = [interval(row[0], row[1:], int(known.sum())) for row in y]
    return Line(
        pass_1=x[:, 0].tolist(),
        pass_k=y[:, 0].tolist(),
        low=[i.low for i in intervals],
        high=[i.high for i in intervals],
    )


def _known(base: BaseCurve, k: int) -> np.ndarray:
    """Return whether Pass@k of each prompt is defined at all temperatures, bool [P]."""
    known: np.ndarray = np.isfinite(np.stack([base.passes[1], base.passes[k]])).all(axis=(0, 1))
    return known


def _interpolated(temperatures: Sequence[float], values: np.ndarray) -> np.ndarray:
    """Return the curve [F, R] through the values at the temperatures [S, R]. A resample with NaN is NaN."""
    if len(temperatures) == 1:
        return values
    rising = np.asarray(temperatures[::-1])
    steps = np.linspace(0, 1, POINTS_BETWEEN, endpoint=False)
    fine = np.append((rising[:-1, None] + steps * np.diff(rising)[:, None]).ravel(), rising[-1])
    known = np.isfinite(values).all(0)
    curve = np.full((len(fine), values.shape[1]), np.nan)
    curve[:, known] = PchipInterpolator(rising, values[::-1, known], axis=0)(fine)
    return curve


def _margin(behind_1: np.ndarray, behind_k: np.ndarray) -> np.ndarray:
    """Return the smallest maximum of the two differences [F, R] along the curve, which is linear between points."""
    lead = behind_1 - behind_k
    at_points = np.maximum(behind_1, behind_k).min(0)
    # On a segment the maximum of two linear functions is smallest at an end, or where they cross.
    return np.minimum(at_points, _at_crossings(lead, behind_1, np.inf).min(0, initial=np.inf))


def _highest(x: np.ndarray, y: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Return the highest y [R] of the curve (x, y) [F, R] where x is at least `least` [R]; -inf if it is nowhere."""
    at_points = np.where(x >= least - ROUNDING, y, -np.inf).max(0)
    return np.maximum(at_points, _at_crossings(x - least, y, -np.inf).max(0, initial=-np.inf))


def _at_crossings(sign: np.ndarray, values: np.ndarray, otherwise: float) -> np.ndarray:
    """Return `values` [F, R] where `sign` [F, R] crosses 0 inside a segment [F - 1, R]; `otherwise` where it does not.

    Both are linear between two points.
    """
    first, second = sign[:-1], sign[1:]
    crosses = first * second < 0
    share = np.divide(first, first - second, out=np.zeros_like(first), where=crosses)
    return np.where(crosses, values[:-1] + share * (values[1:] - values[:-1]), otherwise)
