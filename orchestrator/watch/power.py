"""Pass@k of the power distribution of whole answers, p^alpha / Z, from answers that the base sampled itself.

Sampling colder sharpens the distribution of each token; the power distribution sharpens that of whole answers. It needs
no other samples: answer j of n has the weight w_j = p_j^(alpha - 1). Axes: P prompts, n answers.
"""

from collections.abc import Sequence

import numpy as np


def power_passes(
    log_probs: Sequence[np.ndarray], correct: Sequence[int], alpha: float, ks: Sequence[int]
) -> dict[int, np.ndarray]:
    """Return Pass@k of p^alpha for each k, per prompt, float64 [P]; NaN where a prompt has fewer than k answers.

    1 - e_k(weights of the wrong answers) / e_k(weights of all answers), where e_k is the sum over all choices of k
    answers of the product of their weights. Numerator and denominator are unbiased for ((1 - p_right) Z)^k and Z^k. At
    alpha = 1 it is 1 - C(n - c, k) / C(n, k).

    Args:
        log_probs: of each prompt, the log-probs of its answers under the base [n], the right ones first.
        correct: of each prompt, the number of right answers, c.
    """
    highest, length = max(ks), max(map(len, log_probs), default=0)
    weights = np.full((len(log_probs), length), -np.inf)  # of all answers, log
    for row, values in enumerate(log_probs):
        weights[row, : len(values)] = (alpha - 1) * (values - values.max(initial=-np.inf)) if len(values) else 0
    right = np.arange(length) < np.asarray(correct)[:, None]
    every, wrong = _log_symmetric(weights, highest), _log_symmetric(np.where(right, -np.inf, weights), highest)
    counts = np.array([len(values) for values in log_probs])
    found = {}
    for k in ks:
        with np.errstate(invalid="ignore"):
            found[k] = np.where(counts >= k, -np.expm1(wrong[:, k] - every[:, k]), np.nan)
    return found


def effective_answers(log_probs: Sequence[np.ndarray], alpha: float) -> np.ndarray:
    """Return (sum_j w_j)^2 / sum_j w_j^2 per prompt, float64 [P]: n at alpha = 1; 0 without answers.

    The estimate of Pass@k is biased upwards where this is not several times k.
    """
    found = []
    for values in log_probs:
        weights = np.exp((alpha - 1) * (values - values.max(initial=-np.inf))) if len(values) else np.zeros(1)
        found.append(weights.sum() ** 2 / max((weights**2).sum(), 1e-300))
    return np.array(found)


def _log_symmetric(log_weights: np.ndarray, highest: int) -> np.ndarray:
    """Return the logs of the elementary symmetric polynomials e_0 ... e_highest of each row [P, n], as [P, highest +
    1]."""
    logs = np.full((len(log_weights), highest + 1), -np.inf)
    logs[:, 0] = 0.0
    for column in log_weights.T:
        logs[:, 1:] = np.logaddexp(logs[:, 1:], logs[:, :-1] + column[:, None])
    return logs
