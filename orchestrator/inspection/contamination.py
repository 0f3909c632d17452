"""DC-PDD: how likely it is that a policy was trained on a text, from its token probabilities.

A policy gives tokens that are frequent everywhere a high probability in any text. So each probability is weighed by the
rarity of its token: alpha_t = min(p(x_t | x_<t) log(1 / f(x_t)), clip), with f the frequency of the token in a corpus.
The score of a text is the mean of alpha over the first occurrence of each token in it.

Axes: T tokens of a text, V vocabulary, n and m texts.

Source: DC-PDD, arXiv:2409.14781; `com_det_sco.py` of its repository.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

FEWEST = 10
"""Scores of each set below which nothing is said about their separation."""


def frequencies(texts: Iterable[Sequence[int]], vocabulary: int) -> np.ndarray:
    """Return the frequency of each token in the texts, float64 [V], with one occurrence added to each (Laplace)."""
    counts = np.ones(vocabulary)
    for text in texts:
        counts += np.bincount(np.asarray(text, dtype=np.int64), minlength=vocabulary)
    return counts / counts.sum()


def score(tokens: np.ndarray, logp: np.ndarray, frequency: np.ndarray, clip: float) -> tuple[float, float]:
    """Return the score of one text, and the fraction of its tokens that are clipped.

    Args:
        tokens: int [T], those with a log-prob.
        logp: float [T], nats, under the policy at temperature 1.
        frequency: float [V], from `frequencies`.
        clip: largest alpha of a token.

    Returns: both NaN for a text without tokens. A higher score means that training on the text is likelier.
    """
    if not len(tokens):
        return math.nan, math.nan
    _, first = np.unique(tokens, return_index=True)
    alpha = np.exp(logp[first].astype(np.float64)) * -np.log(frequency[tokens[first]])
    return float(np.minimum(alpha, clip).mean()), float((alpha > clip).mean())


def score_all(
    texts: Sequence[Sequence[int]], logps: Sequence[np.ndarray], frequency: np.ndarray, clip: float
) -> tuple[np.ndarray, float]:
    """Return the score of each text, and the mean fraction of clipped tokens.

    Args:
        texts: token ids of each text.
        logps: log-probs of the last tokens of each text: of all, or of all but the first.

    Returns: float64 [n], NaN where a text has no log-prob; and a fraction, NaN if no text has any.
    """
    tokens = [
        np.asarray(text, dtype=np.int64)[len(text) - len(logp) :] for text, logp in zip(texts, logps, strict=True)
    ]
    found = np.array([score(*each, frequency, clip) for each in zip(tokens, logps, strict=True)])
    known = found[~np.isnan(found[:, 1]), 1]
    return found[:, 0], float(known.mean()) if len(known) else math.nan


@dataclass(frozen=True, kw_only=True)
class Separation:
    """Probability that a text of one set has a higher score than a text of another, with its 95 % interval."""

    value: float
    low: float
    high: float


def separation(ones: np.ndarray, others: np.ndarray) -> Separation | None:
    """Return P(one > other) + P(one = other) / 2, the area under the ROC curve, with its score interval.

    The interval holds each A that lies within 1.96 of its own standard errors of the measured area,

        SE(A)^2 = A (1 - A) (1 + (m + n - 2) / 2 ((1 - A) / (2 - A) + A / (1 + A))) / (m n),

    so it has a width where the sets are completely separated (area 0 or 1), and 0.5 is outside exactly where the
    Mann-Whitney test finds a difference (normal approximation, no correction for ties).

    Args:
        ones, others: float [n] and [m], scores; NaN is left out.

    Returns: None if a set has fewer than FEWEST scores.

    Source: Newcombe, Statistics in Medicine 25 (2006), 559-573, method 5; the standard error is that of Hanley and
        McNeil, Radiology 143 (1982), 29-36, at equal sizes.
    """
    ones, others = ones[~np.isnan(ones)], others[~np.isnan(others)]
    if min(len(ones), len(others)) < FEWEST:
        return None
    value = float(_fraction_below(ones, others).mean())
    low, high = (_lower_bound(area, len(ones), len(others)) for area in (value, 1 - value))
    return Separation(value=value, low=low, high=1 - high)


def _lower_bound(area: float, n: int, m: int) -> float:
    """Return the A up to `area` with A + 1.96 SE(A) = area, by bisection."""
    low, high = 0.0, area
    for _ in range(40):
        middle = (low + high) / 2
        spread = 1 + (m + n - 2) / 2 * ((1 - middle) / (2 - middle) + middle / (1 + middle))
        error = math.sqrt(middle * (1 - middle) * spread / (m * n))
        low, high = (middle, high) if middle + 1.96 * error < area else (low, middle)
    return low


def _fraction_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return for each value the fraction of the others below it, equal ones counted half."""
    ordered = np.sort(others)
    ends = [np.searchsorted(ordered, values, side=side) for side in ("left", "right")]
    return (ends[0] + ends[1]) / (2 * len(others))
