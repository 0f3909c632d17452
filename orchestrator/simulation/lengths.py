"""Lengths of simulated answers: lognormal with a limit, or those of a run's trajectories."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

SPREAD = 0.8
"""Standard deviation of the logarithm of an answer's length. Assumed; give the lengths of a run where there is one."""
QUANTILES = 4096
"""Number of quantiles by which a distribution is held."""


@dataclass(frozen=True, eq=False)
class Lengths:
    """A distribution of answer lengths.

    Example: lognormal(mean=600, limit=2048).of(seed=91)
    """

    values: np.ndarray
    """int64, ascending: lengths at equally spaced quantiles."""

    def of(self, seed: int) -> int:
        """Return the length of the answer with this 31-bit seed."""
        mixed = (seed * 2_654_435_761) % 2**31  # Neighbouring seeds get unrelated lengths.
        return int(self.values[mixed * len(self.values) >> 31])

    @property
    def mean(self) -> float:
        """Mean length in tokens."""
        return float(self.values.mean())

    def longest(self, answers: int) -> float:
        """Return the expected length of the longest of `answers` answers."""
        below = np.arange(1, len(self.values) + 1) / len(self.values)
        return float(np.sum(self.values * np.diff(below**answers, prepend=0.0)))


def lognormal(mean: float, limit: int, spread: float = SPREAD) -> Lengths:
    """Return the lognormal distribution with this mean after it is cut at `limit` (which cut answers have).

    Raises:
        ValueError: the mean is not below the limit, or below one token.
    """
    if not 1 <= mean < limit:
        raise ValueError(f"answer_tokens: must be at least 1 and below sampling.max_new_tokens ({limit}), got {mean:g}")
    quantiles = (np.arange(QUANTILES) + 0.5) / QUANTILES
    deviates = np.array([NormalDist().inv_cdf(q) for q in quantiles])

    def cut(median: float) -> np.ndarray:
        return np.clip(np.rint(median * np.exp(spread * deviates)), 1, limit)

    low, high = 1e-3, limit * math.exp(10 * spread)
    for _ in range(80):  # Bisection: the mean grows with the median.
        middle = math.sqrt(low * high)
        low, high = (middle, high) if cut(middle).mean() < mean else (low, middle)
    return Lengths(cut(high).astype(np.int64))


def measured(counts: list[int]) -> Lengths:
    """Return the distribution of these lengths."""
    return Lengths(np.sort(np.array(counts, np.int64)))


def texts_of(run: Path, field: str) -> list[str]:
    """Return one text of each answer of training in a run's trajectories.jsonl.

    Args:
        field: "answer", or "rendered" for the prompt as the policy sees it.

    Raises:
        ValueError: there is none; names the word `lengths`.
    """
    file = run / "trajectories.jsonl"
    if not file.is_file():
        raise ValueError(f"lengths: must be a run's directory with trajectories.jsonl, got {str(run)!r}")
    rows = map(json.loads, file.read_text().splitlines())
    texts = [row[field] for row in rows if row["route"] == "explore"]
    if not texts:
        raise ValueError(f"lengths: must be a run with answers in trajectories.jsonl, got {str(run)!r}")
    return texts
