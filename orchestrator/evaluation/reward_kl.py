"""Reward against KL: the mean reward that the base's own answers give at each KL to the base, and a policy's place.

Rewards are 0 or 1. Let p be the pass rate of the base on a prompt: the fraction of right answers among its own. Every
reweighting of its right against its wrong answers, to the pass rate q, has KL = kl(q || p), with

    kl(q || p) = q log(q / p) + (1 - q) log((1 - q) / (1 - p)).

No policy with the pass rate q has a smaller KL to the base (data processing inequality). The KL-optimal tilt
base(y) exp(reward(y) / beta) / Z, the solution of max E[reward] - beta KL, and the best of n answers are such
reweightings. Axes: P prompts, S strengths of the tilt, R bootstrap resamples.

Source: Korbak et al., arXiv:2205.11275 (the tilt as the posterior of a Bayesian update); Yang et al., arXiv:2404.01730
(best of n against the tilt); Beirami et al., arXiv:2401.01879 (the bound of best of n).
"""

import math
from collections.abc import Sequence

import numpy as np

from orchestrator.watch.bootstrap import UNDEFINED, Interval, interval, prompt_weights, weighted_means
from orchestrator.watch.measurement import Measurement, PromptResult
from orchestrator.watch.passk import aligned, passes_at

STRENGTHS = np.linspace(0.0, 30.0, 601)
"""Values of 1 / beta of the interpolated curve, rising [S]. At 30 a pass rate of 0.001 is tilted to 1 - 1e-10."""

BETAS = (5.0, 2.0, 1.0, 0.7, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05)
"""Values of beta at which the tilt is recorded."""

ROUNDING = 1e-9
"""A gain in reward up to this is rounding."""


def binary_kl(q: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return kl(q || p) of two pass rates, in nats, with 0 log 0 = 0; infinite where q is not 0 and p is, or q is not 1
    and p is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        right = np.where(q > 0, q * np.log(q / p), 0.0)
        wrong = np.where(q < 1, (1 - q) * np.log((1 - q) / (1 - p)), 0.0)
    found: np.ndarray = right + wrong
    return found


def tilted(p: np.ndarray, strength: float | np.ndarray) -> np.ndarray:
    """Return the pass rate of the tilt, p e^(1/beta) / (p e^(1/beta) + 1 - p), for `strength` = 1 / beta."""
    found: np.ndarray = p / (p + (1 - p) * np.exp(-np.asarray(strength)))
    return found


def best_of(p: np.ndarray, n: int) -> np.ndarray:
    """Return the pass rate of the best of n answers, 1 - (1 - p)^n."""
    found: np.ndarray = 1 - (1 - p) ** n
    return found


def best_of_bound(n: int) -> float:
    """Return log n - (n - 1) / n: the KL of the best of n answers to the base is at most this, whatever the reward.

    It is the KL for rewards of which no two are equal. With rewards of 0 and 1 the KL is at most log(1 / p).
    """
    return math.log(n) - (n - 1) / n


def pass_rates(prompts: Sequence[PromptResult]) -> np.ndarray:
    """Return the fraction of right among the graded answers of each prompt, float64 [P]; NaN where none is graded."""
    return np.array([p.correct / p.total if p.total else np.nan for p in prompts])


def tilt_curve(p: np.ndarray, strengths: np.ndarray = STRENGTHS) -> tuple[np.ndarray, np.ndarray]:
    """Return KL and pass rate of the tilt of each prompt, each [S, P], with one beta for all prompts.

    At equal KL over all prompts together no other policy has a higher mean reward, since d reward / d KL = beta is the
    same for every prompt. A prompt with p = 0 or 1 stays at KL 0.
    """
    q = tilted(p, strengths[:, None])
    return binary_kl(q, p), q


def best_of_points(base: Measurement) -> list[dict[str, float]]:
    """Return reward, KL and its bound of the best of n of the base's own answers, mean over prompts: n = 1, 2, 4, ...

    The n answers are drawn with replacement from those that were measured, so that the point lies on the curve of the
    tilt where all prompts have the same p. `pass@n` is the unbiased estimate, which draws without replacement; it is
    higher where n is not far below the number of answers. An empty list if nothing is graded.
    """
    p = pass_rates([prompt for prompt in base.prompts if prompt.total])
    found = []
    for n in (2**i for i in range(base.answers.bit_length())):
        if len(p):
            q, unbiased = best_of(p, n), passes_at(base.prompts, n)
            point = {"n": n, "reward": float(q.mean()), "kl": float(binary_kl(q, p).mean()), "bound": best_of_bound(n)}
            found.append(point | ({"pass@n": float(np.nanmean(unbiased))} if np.isfinite(unbiased).any() else {}))
    return found


def tilt_points(base: Measurement) -> list[dict[str, float]]:
    """Return reward and KL of the KL-optimal tilt of the base's own answers, mean over prompts, for each of BETAS."""
    p = pass_rates([prompt for prompt in base.prompts if prompt.total])
    if not len(p):
        return []
    kl, q = tilt_curve(p, 1 / np.array(BETAS))
    means = zip(BETAS, q.mean(1).tolist(), kl.mean(1).tolist(), strict=True)
    return [{"beta": beta, "reward": reward, "kl": spent} for beta, reward, spent in means]


def efficiency(policy: Measurement, base: Measurement) -> dict[str, Interval]:
    """Return how much of its KL a policy needs, with bootstrap intervals over prompts; empty without its KL.

    `kl_efficiency` is mean kl(q || p) / mean KL: the fraction of the policy's KL that its pass rates q need. It is 1
    for every reweighting of right against wrong answers. Pass rates are (right + 1/2) / (answers + 1) here, so that it
    is finite where the base has no right answer.

    `optimal_gain` is (mean q - mean p) / (mean of the tilt - mean p): the gain in reward as a fraction of that of the
    tilt with the policy's KL. It is 1 for the tilt, and above 1 only where the policy solves what the base's own
    answers do not.

    Both are undefined unless the interval of the policy's KL is above 0. Errors of estimation can put both above 1.

    Args:
        policy: with `kl_to_base`.
        base: its base on the same prompts.
    """
    prompts, before = policy.prompts, aligned(base, policy)
    kl = np.array([np.nan if p.kl_to_base is None else p.kl_to_base for p in prompts])
    q, p = pass_rates(prompts), pass_rates(before)
    known = np.isfinite(kl) & np.isfinite(q) & np.isfinite(p)
    if np.isnan(kl).all():
        return {}
    draws = prompt_weights(known)
    spent, reward, start = (weighted_means(values, draws) for values in (kl, q, p))
    if not interval(spent[0], spent[1:], int(known.sum())).low > 0:
        return {"kl_efficiency": UNDEFINED, "optimal_gain": UNDEFINED}
    needed = weighted_means(binary_kl(_smoothed(prompts), _smoothed(before)), draws)
    curve_kl, curve_reward = (weighted_means(values, draws) for values in tilt_curve(np.nan_to_num(p)))  # [S, 1 + R]
    curves = zip(spent, curve_kl.T, curve_reward.T, strict=True)
    highest = np.array([np.interp(at, x, y) for at, x, y in curves])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = {
            "kl_efficiency": np.where(spent > 0, needed / spent, np.nan),
            "optimal_gain": np.where(highest - start > ROUNDING, (reward - start) / (highest - start), np.nan),
        }
    return {
        name: UNDEFINED if np.isnan(v[0]) else interval(v[0], v[1:], int(known.sum())) for name, v in ratios.items()
    }


def _smoothed(prompts: Sequence[PromptResult]) -> np.ndarray:
    """Return (right + 1/2) / (answers + 1) of each prompt: the mean under Jeffreys' prior."""
    return np.array([(p.correct + 0.5) / (p.total + 1) for p in prompts])
