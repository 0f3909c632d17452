"""k-nearest-neighbour estimators of entropy and KL divergence, and the projection to few dimensions before them.

Axes: P prompts, D hidden size, d dimensions of the projection, n and m points.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import digamma

from orchestrator.watch.bootstrap import CONFIDENCE, Interval

DRAWS = 100
"""Random draws of prompts behind every value and its interval."""
SMALLEST_DISTANCE = 1e-10
"""Is added to every distance, so that equal points have a finite logarithm."""


@dataclass(frozen=True, kw_only=True)
class Novelty:
    """KL(new || known) in nats, between draws of both sets, and between disjoint draws of the known set alone."""

    divergence: Interval
    zero: Interval
    """The same statistic where nothing is new: what the estimator gives for two parts of one set."""

    @property
    def word(self) -> str:
        """`new`: above the interval of the zero; `repeats`: below it, as where sets share prompts; `alike`: inside."""
        if self.divergence.value > self.zero.high:
            return "new"
        return "repeats" if self.divergence.value < self.zero.low else "alike"


def project(points: np.ndarray, dimensions: int) -> tuple[np.ndarray, float]:
    """Project points on their first principal components, each scaled to variance 1.

    In many dimensions all distances are nearly equal, and nearest-neighbour estimators are biased far beyond their
    noise.

    Args:
        points: float [P, D], P >= 1.
        dimensions: most components to keep. Those without variance are left out.

    Returns:
        float64 [P, d] with d <= dimensions, and the fraction of the variance that the components hold. d is 0, and the
        fraction 1, if all points are equal.
    """
    centred = points.astype(np.float64) - points.mean(0, dtype=np.float64)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    # Equal prompts have hidden states that differ by rounding alone: they have no direction.
    varied = scale > 1e-5 * max(float(np.abs(points).max()), 1e-30) * math.sqrt(len(points))
    kept = int(varied[:dimensions].sum())
    total = float((scale[varied] ** 2).sum())
    held = float((scale[:kept] ** 2).sum()) / total if total else 1.0
    return left[:, :kept] * math.sqrt(len(points)), held


def entropy(points: np.ndarray, neighbours: int) -> float:
    """Estimate the differential entropy in nats by Kozachenko and Leonenko.

    H = psi(n) - psi(k) + log V_d + (d / n) sum_i log rho_i, where rho_i is the distance of point i to its k-th
    neighbour and V_d the volume of the unit ball.

    Args:
        points: float [n, d], n > k.
        neighbours: k.

    Source: InfoSynth, arXiv:2601.00575 (diversity).
    """
    n, d = points.shape
    volume = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    distances = _kth_distance(points, points, neighbours + 1)  # the nearest one is the point itself
    return float(digamma(n) - digamma(neighbours) + volume + d * np.log(distances).mean())


def kl_divergence(new: np.ndarray, known: np.ndarray, neighbours: int) -> float:
    """Estimate KL(new || known) in nats by nearest neighbours.

    KL = (d / n) sum_i log(nu_i / rho_i) + log(m / (n - 1)), where rho_i is the distance of point i of `new` to its k-th
    neighbour in `new`, and nu_i that to its k-th neighbour in `known`. It is negative where points of both sets are
    equal: about -1 / (k - 1) if all are. Where few known points lie around the new ones, a large divergence is
    underestimated.

    Args:
        new, known: float [n, d] and [m, d], n > k and m >= k.
        neighbours: k.

    Source: InfoSynth, arXiv:2601.00575 (novelty), with the constants of the standard estimator; those of the paper are
    unverified.
    """
    n, d = new.shape
    rho = _kth_distance(new, new, neighbours + 1)
    nu = _kth_distance(known, new, neighbours)
    return float(d * (np.log(nu) - np.log(rho)).mean() + math.log(len(known) / (n - 1)))


def _kth_distance(points: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Return the distance of each query to its k-th nearest point, where k is at most the number of points."""
    assert 1 <= k <= len(points), f"{len(points)} points have no {k}-th neighbour"
    distances, _ = cKDTree(points).query(queries, k=[k])
    return np.asarray(distances)[:, 0] + SMALLEST_DISTANCE


def matched_draws(sizes: Sequence[int], neighbours: int) -> int:
    """Return the points of a draw for `diversity`: half of the smallest set that has enough; 0 if none has."""
    return min((size // 2 for size in sizes if size // 2 > neighbours), default=0)


def diversity(points: np.ndarray, count: int, neighbours: int, seed: int) -> Interval | None:
    """Return the entropy of random draws of `count` points, the same number for all sets that are compared.

    Returns: None where there are too few points, or the points have no dimension.
    """
    if not neighbours < count <= len(points) // 2 or not points.shape[1]:
        return None
    random = np.random.default_rng(seed)
    return _spread([entropy(_draw(random, points, count), neighbours) for _ in range(DRAWS)], count)


def novelty(new: np.ndarray, known: np.ndarray, neighbours: int, seed: int) -> Novelty | None:
    """Return how far one set is from another, beside what two parts of the known set give.

    A draw takes h points of each set, h half of the smaller one. So both statistics are of equal sizes, and have the
    same bias by the number of points; and the spread over halves of a set is the standard error of a value of the
    whole set (the delete-half jackknife).

    Returns: None where h is too small for the neighbours, or the points have no dimension.
    """
    half = min(len(new), len(known)) // 2
    if half <= neighbours or not new.shape[1]:
        return None
    random = np.random.default_rng(seed)
    between, within = [], []
    for _ in range(DRAWS):
        between.append(kl_divergence(_draw(random, new, half), _draw(random, known, half), neighbours))
        both = _draw(random, known, 2 * half)
        within.append(kl_divergence(both[:half], both[half:], neighbours))
    return Novelty(divergence=_spread(between, half), zero=_spread(within, half))


def _draw(random: np.random.Generator, points: np.ndarray, count: int) -> np.ndarray:
    return points[random.permutation(len(points))[:count]]


def _spread(values: list[float], prompts: int) -> Interval:
    """Return the mean over draws, and the interval that holds 95 % of them; `prompts`: of each set in one draw."""
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value=float(np.mean(values)), low=float(low), high=float(high), prompts=prompts)
