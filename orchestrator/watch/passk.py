"""Compute the breadth monitor's values: Pass@k, retention and expansion against the base, and bootstrap intervals.

Pure functions on numpy arrays. Axes: P prompts, R bootstrap resamples.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from configs.monitor import parse_stop_rule
from orchestrator.heldout.votes import majority_at, voting
from orchestrator.watch.bootstrap import RESAMPLES, Interval, interval, resample
from orchestrator.watch.measurement import Measurement, PromptResult
from trajectories.trajectory import domain


def pass_at_k(total: int, correct: int, k: int) -> float:
    """Return the unbiased estimate of Pass@k, 1 - C(total - correct, k) / C(total, k).

    It is the probability that k answers drawn without replacement from `total` include a correct one.

    Raises:
        ValueError: k is above `total`. No unbiased estimate exists then.

    Source: Chen et al., arXiv:2107.03374, equation 1.
    """
    if not 0 <= correct <= total:
        raise ValueError(f"correct: must be between 0 and total ({total}), got {correct}")
    if not 1 <= k <= total:
        raise ValueError(f"k: must be between 1 and the graded answers ({total}), got {k}")
    if total - correct < k:
        return 1.0
    # The product of 1 - k / i over `correct` factors, as a sum of logarithms: no binomial coefficient, which would
    # overflow, and no difference of nearly equal numbers where Pass@k is near 0.
    misses = np.arange(total - correct + 1, total + 1)
    return float(0.0 - np.expm1(np.log1p(-k / misses).sum()))


def passes_at(prompts: Sequence[PromptResult], k: int) -> np.ndarray:
    """Return the unbiased Pass@k of each prompt, float64 [P]; NaN where fewer than k answers are graded."""
    return np.array([pass_at_k(p.total, p.correct, k) if p.total >= k else np.nan for p in prompts])


def summary(
    measurement: Measurement,
    ks: Sequence[int],
    base: Measurement | None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Interval]:
    """Compute every monitored value and its percentile bootstrap interval over prompts.

    `pass@k` is the mean over prompts with at least k graded answers, `pass@k/DOMAIN` the same over the prompts of one
    domain of a mixture. `distinct_correct` is the mean over prompts with any graded answer, `maj@n` over those whose
    verifier notes final answers (`orchestrator.heldout.votes.voting`). `retention` is the fraction still solved of the
    prompts that the base solved, `expansion` the fraction now solved of the prompts that the base did not solve; solved
    means that at least one answer is correct. `change/pass@k` is Pass@k minus that of the base, over prompts with at
    least k graded answers in both; its interval is paired.

    Args:
        base: measurement of the base on the same prompts; None leaves out the values that compare with it.
        seed: seed of the bootstrap. The same seed gives the same intervals.

    Raises:
        ValueError: `measurement` has no prompts, or `base` has other prompts.
    """
    prompts = len(measurement.prompts)
    if prompts == 0:
        raise ValueError(f"measurement: must hold at least one prompt, got none in {measurement.name!r}")
    rows = _ratios(measurement, ks, base)
    numerators = np.array([top for top, _ in rows.values()], dtype=np.float64)
    denominators = np.array([bottom for _, bottom in rows.values()], dtype=np.float64)
    draws = resample(prompts, seed, resamples)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = numerators.sum(1) / denominators.sum(1)
        resampled = (draws @ numerators.T) / (draws @ denominators.T)
    return {
        name: interval(values[row], resampled[:, row], int((denominators[row] > 0).sum()))
        for row, name in enumerate(rows)
    }


def _ratios(
    measurement: Measurement, ks: Sequence[int], base: Measurement | None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return numerators [P] and denominators [P] of every value, value = sum(numerators) / sum(denominators).

    As ratios of sums over prompts, all values are resampled by the same draws of prompts.
    """
    total = np.array([p.total for p in measurement.prompts])
    correct = np.array([p.correct for p in measurement.prompts])
    graded = total > 0
    domains = _domains(measurement)
    rows: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    before = None if base is None else aligned(base, measurement)
    for k in sorted(set(ks)):
        passes = passes_at(measurement.prompts, k)
        rows[f"pass@{k}"] = np.nan_to_num(passes), total >= k
        for name, of_domain in domains.items():
            rows[f"pass@{k}/{name}"] = np.nan_to_num(passes) * of_domain, (total >= k) & of_domain
        if before is not None:
            change = passes - passes_at(before, k)
            rows[f"change/pass@{k}"] = np.nan_to_num(change), np.isfinite(change)
    votes = voting(measurement)
    rows["maj@n"] = np.array([majority_at(p, [p.total])[p.total] for p in measurement.prompts]) * votes, votes
    if before is not None:
        known = graded & (np.array([p.total for p in before]) > 0)
        solved_before = np.array([p.correct for p in before]) > 0
        rows["retention"] = known & solved_before & (correct > 0), known & solved_before
        rows["expansion"] = known & ~solved_before & (correct > 0), known & ~solved_before
    rows["distinct_correct"] = np.array([p.distinct_correct for p in measurement.prompts]), graded
    tokens = np.array([p.tokens for p in measurement.prompts])
    rows["entropy"] = np.array([p.negative_logp for p in measurement.prompts]), tokens
    if any(p.kl_to_base is not None for p in measurement.prompts):
        answers = np.array([p.total + p.ungraded if p.kl_to_base is not None else 0 for p in measurement.prompts])
        rows["kl_to_base"] = np.array([p.kl_to_base or 0.0 for p in measurement.prompts]) * answers, answers
    return rows


def _domains(measurement: Measurement) -> dict[str, np.ndarray]:
    """Return a mask [P] of the prompts of each domain; empty unless the prompts come from a mixture."""
    names = [domain(p.prompt_id) for p in measurement.prompts]
    several = len(set(names)) > 1 and all("/" in p.prompt_id for p in measurement.prompts)
    return {name: np.array([found == name for found in names]) for name in sorted(set(names))} if several else {}


def aligned(base: Measurement, other: Measurement) -> list[PromptResult]:
    """Return the results of `base` in the prompt order of `other`. Raises ValueError if their prompts differ."""
    by_id = {p.prompt_id: p for p in base.prompts}
    ids = [p.prompt_id for p in other.prompts]
    if set(by_id) != set(ids):
        common = len(set(by_id) & set(ids))
        raise ValueError(
            f"measurements: must have the same prompts, got {len(by_id)} of {base.name!r} and {len(ids)} of "
            f"{other.name!r} with {common} in common"
        )
    return [by_id[prompt_id] for prompt_id in ids]


def lost_and_gained(
    base: Measurement, other: Measurement
) -> tuple[list[tuple[PromptResult, PromptResult]], list[tuple[PromptResult, PromptResult]]]:
    """Return the prompts that only `base` solved and those that only `other` solved, as pairs (base, other).

    Prompts with the largest fraction of correct answers come first. Prompts without graded answers are left out.
    """
    pairs = [(b, o) for b, o in zip(aligned(base, other), other.prompts, strict=True) if b.total and o.total]
    lost = [(b, o) for b, o in pairs if b.correct and not o.correct]
    gained = [(b, o) for b, o in pairs if o.correct and not b.correct]
    lost.sort(key=lambda pair: (-pair[0].correct / pair[0].total, pair[0].prompt_id))
    gained.sort(key=lambda pair: (-pair[1].correct / pair[1].total, pair[0].prompt_id))
    return lost, gained


def fired_rule(rules: Sequence[str], values: Mapping[str, float]) -> str | None:
    """Return the first rule of `monitor.stop_if` that is true of `values`, or None. No rule is true of a NaN.

    Raises:
        ValueError: a rule names a metric that is not in `values`.
    """
    for rule in rules:
        metric, comparison, limit = parse_stop_rule(rule)
        if metric not in values:
            raise ValueError(f"monitor.stop_if: must name one of {', '.join(sorted(values))}, got {metric!r}")
        if values[metric] < limit if comparison == "<" else values[metric] > limit:
            return rule
    return None
