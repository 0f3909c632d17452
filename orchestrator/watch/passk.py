"""Compute the breadth monitor's values: Pass@k, retention and expansion against the base, and bootstrap intervals.

Pure functions on numpy arrays. Axes: P prompts, R bootstrap resamples.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from configs.monitor import parse_stop_rule
from trajectories.trajectory import Group, Trajectory, domain

EXAMPLES = 5
"""Number of distinct correct, and of distinct wrong, answers kept per prompt."""
EXAMPLE_LIMIT = 2_000
"""Characters kept of an example answer and of the prompt."""
CONFIDENCE = 0.95
"""Confidence level of the intervals."""


@dataclass(frozen=True, kw_only=True)
class PromptResult:
    """Counts and sums over a policy's answers to one prompt.

    Example: PromptResult(prompt_id="countdown/heldout/7", prompt_text="3,7,12=22:", total=32, correct=5, ungraded=0,
    distinct_correct=2, majority_correct=False, tokens=180, negative_logp=101.5, kl_to_base=0.4,
    correct_answers=("3+7+12", "12+7+3"), wrong_answers=("3*7",))
    """

    prompt_id: str
    prompt_text: str
    total: int
    """Graded answers."""
    correct: int
    """Graded answers whose status is `correct`."""
    ungraded: int
    """Answers whose grader failed. They count for entropy and KL, but not for Pass@k."""
    distinct_correct: int
    """Different texts among the correct answers; runs of whitespace count as one space."""
    majority_correct: bool
    """Whether the most frequent text among the graded answers (the earliest on a tie) is correct."""
    tokens: int
    """Generated tokens of all answers."""
    negative_logp: float
    """Sum of -logp_sampler over those tokens, nats."""
    kl_to_base: float | None
    """Mean over answers of the sum over generated tokens of logp_sampler - logp_reference, nats; None: not scored."""
    correct_answers: tuple[str, ...]
    wrong_answers: tuple[str, ...]
    """Up to EXAMPLES distinct answers of each kind, for the report."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The results of one policy on the held-out prompts."""

    name: str
    step: int
    answers: int
    """Answers generated per prompt."""
    prompts: tuple[PromptResult, ...]

    @property
    def ungraded(self) -> int:
        """Number of answers whose grader failed."""
        return sum(p.ungraded for p in self.prompts)

    def to_json(self) -> str:
        """Return the measurement as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Measurement":
        """Read the JSON that `to_json` writes. Raises ValueError on other text."""
        try:
            fields = json.loads(text)
            rows = fields.pop("prompts")
            return cls(prompts=tuple(PromptResult(**_tuples(row)) for row in rows), **fields)
        except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"measurement: must be the JSON of a Measurement, got {text[:80]!r} ({error})") from error


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}


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
    misses = np.arange(total - correct + 1, total + 1)
    return float(1.0 - np.prod(1.0 - k / misses))


def measure(groups: Sequence[Group], name: str, step: int) -> Measurement:
    """Count the correct answers of each group, and sum log-probs. Ungraded answers are counted apart."""
    return Measurement(
        name=name,
        step=step,
        answers=max((len(group.trajectories) for group in groups), default=0),
        prompts=tuple(_prompt_result(group) for group in groups),
    )


def _prompt_result(group: Group) -> PromptResult:
    graded = [t for t in group.trajectories if t.grade is not None and t.grade.reward is not None]
    texts = [" ".join(t.text.split()) for t in graded]
    correct_texts = {text for text, t in zip(texts, graded, strict=True) if _is_correct(t)}
    distinct_wrong_texts = dict.fromkeys(text for text in texts if text not in correct_texts)
    distinct_correct_texts = dict.fromkeys(text for text in texts if text in correct_texts)
    counts = Counter(texts).most_common(1)
    return PromptResult(
        prompt_id=group.prompt.id,
        prompt_text=group.prompt.text[:EXAMPLE_LIMIT],
        total=len(graded),
        correct=sum(map(_is_correct, graded)),
        ungraded=len(group.trajectories) - len(graded),
        distinct_correct=len(correct_texts),
        majority_correct=bool(counts) and counts[0][0] in correct_texts,
        tokens=sum(t.answer_length for t in group.trajectories),
        negative_logp=-float(sum(t.logp_sampler[t.mask].sum(dtype=np.float64) for t in group.trajectories)),
        kl_to_base=_kl_to_base(group.trajectories),
        correct_answers=tuple(text[:EXAMPLE_LIMIT] for text in list(distinct_correct_texts)[:EXAMPLES]),
        wrong_answers=tuple(text[:EXAMPLE_LIMIT] for text in list(distinct_wrong_texts)[:EXAMPLES]),
    )


def _is_correct(trajectory: Trajectory) -> bool:
    return trajectory.grade is not None and trajectory.grade.status == "correct"


def _kl_to_base(trajectories: Sequence[Trajectory]) -> float | None:
    scored = [(t, t.logp_reference) for t in trajectories if t.logp_reference is not None]
    if not scored:
        return None
    assert len(scored) == len(trajectories), "the reference scores every answer of a group or none"
    sums = [(t.logp_sampler[t.mask] - reference[t.mask]).sum(dtype=np.float64) for t, reference in scored]
    return float(np.mean(sums))


def summary(
    measurement: Measurement,
    ks: Sequence[int],
    base: Measurement | None,
    seed: int = 0,
    resamples: int = 1_000,
) -> dict[str, Interval]:
    """Compute every monitored value and its percentile bootstrap interval over prompts.

    `pass@k` is the mean over prompts with at least k graded answers, `pass@k/DOMAIN` the same over the prompts of one
    domain of a mixture. `maj@n` and `distinct_correct` are means over prompts with any graded answer. `retention` is
    the fraction still solved of the prompts that the base solved, `expansion` the fraction now solved of the prompts
    that the base did not solve; solved means that at least one answer is correct.

    Args:
        base: measurement of the base on the same prompts; None leaves out `retention` and `expansion`.
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
    draws = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = numerators.sum(1) / denominators.sum(1)
        resampled = (draws @ numerators.T) / (draws @ denominators.T)
    return {
        name: _interval(values[row], resampled[:, row], int((denominators[row] > 0).sum()))
        for row, name in enumerate(rows)
    }


def _interval(value: float, resampled: np.ndarray, prompts: int) -> Interval:
    if prompts == 0:
        return Interval(value=math.nan, low=math.nan, high=math.nan, prompts=0)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled[np.isfinite(resampled)], [tail, 1 - tail])
    # If all prompts have the same value, rounding can put it slightly outside the interval.
    return Interval(value=float(value), low=float(min(low, value)), high=float(max(high, value)), prompts=prompts)


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
    for k in sorted(set(ks)):
        passes = [pass_at_k(n, c, k) if n >= k else 0.0 for n, c in zip(total, correct, strict=True)]
        rows[f"pass@{k}"] = np.array(passes), total >= k
        for name, of_domain in domains.items():
            rows[f"pass@{k}/{name}"] = np.array(passes) * of_domain, (total >= k) & of_domain
    rows["maj@n"] = np.array([p.majority_correct for p in measurement.prompts]), graded
    if base is not None:
        before = _aligned(base, measurement)
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


def _aligned(base: Measurement, other: Measurement) -> list[PromptResult]:
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
    pairs = [(b, o) for b, o in zip(_aligned(base, other), other.prompts, strict=True) if b.total and o.total]
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
