"""Bootstrap over prompts: how much a mean over the held-out prompts would change with another draw of prompts.

Axes: P prompts, R resamples. The same seed gives the same resamples, so values computed from the same resamples are
paired.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
"""Confidence level of the intervals."""
RESAMPLES = 1_000
"""Resamples of the prompts."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value and its 95 % bootstrap interval. All three numbers are NaN if the value is defined for no prompt.

    Example: Interval(value=0.31, low=0.26, high=0.36, prompts=64)
    """

    value: float
    low: float
    high: float
    prompts: int
    """Number of prompts for which the value is defined."""


UNDEFINED = Interval(value=math.nan, low=math.nan, high=math.nan, prompts=0)


@functools.lru_cache(maxsize=8)
def resample(prompts: int, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """Return int64 [R, P]: how often each prompt is drawn in each resample. Not to be changed: it is drawn once."""
    return np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples)


def prompt_weights(known: np.ndarray) -> np.ndarray:
    """Return the weight of each prompt in the mean over all known ones (row 0) and over each resample, float64 [1 + R,
    P].

    A resample without a known prompt is NaN.

    Args:
        known: bool [P], whether a value is defined for the prompt.
    """
    drawn = np.vstack([known, resample(len(known)) * known])
    with np.errstate(invalid="ignore"):
        found: np.ndarray = drawn / drawn.sum(1, keepdims=True)
    return found


def weighted_means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the means of `values` [P] or [S, P] by the weights of `prompt_weights`, as [1 + R] or [S, 1 + R]."""
    means: np.ndarray = np.nan_to_num(values) @ weights.T
    return means


def interval(value: float, resampled: np.ndarray, prompts: int) -> Interval:
    """Return the percentile interval of `value` from its `resampled` values [R].

    NaN are left out. An infinite value is larger or smaller than every number.
    """
    known = resampled[~np.isnan(resampled)]
    if prompts == 0 or not len(known):
        return UNDEFINED
    tail = (1 - CONFIDENCE) / 2
    if np.isinf(known).any():  # no number lies between a number and an infinity
        low, high = np.quantile(known, tail, method="lower"), np.quantile(known, 1 - tail, method="higher")
    else:
        low, high = np.quantile(known, [tail, 1 - tail])
    # If all prompts have the same value, rounding can put it slightly outside the interval.
    return Interval(value=float(value), low=float(min(low, value)), high=float(max(high, value)), prompts=prompts)
