"""The breadth monitor's arithmetic: Pass@k, what was lost and gained against the base, and how sure that is.

Axes: P prompts, R bootstrap resamples. Numpy only; nothing here waits, logs or draws.
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
"""Distinct answers of each kind that a prompt's result keeps."""
EXAMPLE_LIMIT = 2_000
"""Characters of an answer that are kept as an example."""
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class PromptResult:
    """What the policy's answers to one prompt came to.

    Example: PromptResult(prompt_id="countdown/heldout/7", prompt_text="3,7,12=22:", total=32, correct=5, ungraded=0,
    distinct_correct=2, majority_correct=False, tokens=180, surprise=101.5, kl_to_base=0.4,
    correct_answers=("3+7+12", "12+7+3"), wrong_answers=("3*7",))
    """

    prompt_id: str
    prompt_text: str
    total: int
    """Graded answers."""
    correct: int
    """Graded answers whose status is `correct`."""
    ungraded: int
    """Answers whose grader failed: they are in no Pass@k, yet count for entropy and KL."""
    distinct_correct: int
    """Different texts among the correct answers; runs of whitespace count as one space."""
    majority_correct: bool
    """Whether the most frequent graded text (the earliest one on a tie) is correct."""
    tokens: int
    """Generated tokens of all answers."""
    surprise: float
    """Sum of -logp_sampler over those tokens, nats."""
    kl_to_base: float | None
    """Mean over answers of the sum over generated tokens of logp_sampler - logp_reference, nats."""
    correct_answers: tuple[str, ...]
    wrong_answers: tuple[str, ...]
    """A few distinct answers of each kind, for people to read."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One policy on a set of held-out prompts."""

    name: str
    step: int
    answers: int
    """Answers asked of each prompt."""
    prompts: tuple[PromptResult, ...]

    @property
    def entropy(self) -> float:
        """Mean of -logp_sampler over generated tokens, nats per token: an unbiased estimate of the policy's entropy."""
        tokens = sum(p.tokens for p in self.prompts)
        return sum(p.surprise for p in self.prompts) / tokens if tokens else math.nan

    @property
    def kl_to_base(self) -> float | None:
        """Mean over answers of their sequence KL (k1) to the base policy, nats; None when it was not measured."""
        scored = [(p.kl_to_base, p.total + p.ungraded) for p in self.prompts if p.kl_to_base is not None]
        answers = sum(count for _, count in scored)
        return sum(kl * count for kl, count in scored) / answers if answers else None

    @property
    def ungraded(self) -> int:
        """Answers left out because their grader failed."""
        return sum(p.ungraded for p in self.prompts)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Measurement":
        """Read what `to_json` wrote; raises ValueError on anything else."""
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
    """A value and its 95 % bootstrap interval. All three are NaN where no prompt can say anything.

    Example: Interval(value=0.31, low=0.26, high=0.36, prompts=64)
    """

    value: float
    low: float
    high: float
    prompts: int
    """Prompts the value rests on."""


def pass_at_k(total: int, correct: int, k: int) -> float:
    """Probability that k answers drawn without replacement from `total` hold a correct one, unbiased for Pass@k.

    1 - C(total - correct, k) / C(total, k): Chen et al. (arXiv:2107.03374), equation 1. Raises ValueError when k
    exceeds `total`, for then no unbiased estimate exists.
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
    """Reduce graded groups to what the monitor keeps. An answer without a reward is left out and counted."""
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
    wrong_texts = dict.fromkeys(text for text in texts if text not in correct_texts)
    right_texts = dict.fromkeys(text for text in texts if text in correct_texts)
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
        surprise=-float(sum(t.logp_sampler[t.mask].sum(dtype=np.float64) for t in group.trajectories)),
        kl_to_base=_kl_to_base(group.trajectories),
        correct_answers=tuple(text[:EXAMPLE_LIMIT] for text in list(right_texts)[:EXAMPLES]),
        wrong_answers=tuple(text[:EXAMPLE_LIMIT] for text in list(wrong_texts)[:EXAMPLES]),
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
    """Every monitored value with its percentile bootstrap interval over prompts, the same for the same seed.

    `pass@k` is the mean over the prompts with at least k graded answers, `maj@n` and `distinct_correct` over those
    with any; `Interval.prompts` tells how many they were. A mixture has `pass@k/<label>` too, over the prompts of that
    part. `retention` and `expansion` need `base` on the same prompts: shares of what the base solved at least once, and
    never solved, that is solved at least once now. Raises ValueError on a measurement without prompts.
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
    tails = (1 - CONFIDENCE) / 2
    return {
        name: _interval(values[row], resampled[:, row], int((denominators[row] > 0).sum()), tails)
        for row, name in enumerate(rows)
    }


def _interval(value: float, resampled: np.ndarray, prompts: int, tails: float) -> Interval:
    if prompts == 0:
        return Interval(value=math.nan, low=math.nan, high=math.nan, prompts=0)
    low, high = np.quantile(resampled[np.isfinite(resampled)], [tails, 1 - tails])
    # Rounding alone can put the value of prompts that all agree a hair outside.
    return Interval(value=float(value), low=float(min(low, value)), high=float(max(high, value)), prompts=prompts)


def _ratios(
    measurement: Measurement, ks: Sequence[int], base: Measurement | None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Each value as numerators [P] over denominators [P]: value = sum / sum, so all resample alike."""
    total = np.array([p.total for p in measurement.prompts])
    correct = np.array([p.correct for p in measurement.prompts])
    graded = total > 0
    domains = _domains(measurement)
    rows: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for k in sorted(set(ks)):
        passes = [pass_at_k(n, c, k) if n >= k else 0.0 for n, c in zip(total, correct, strict=True)]
        rows[f"pass@{k}"] = np.array(passes), total >= k
        for name, inside in domains.items():
            rows[f"pass@{k}/{name}"] = np.array(passes) * inside, (total >= k) & inside
    rows["maj@n"] = np.array([p.majority_correct for p in measurement.prompts]), graded
    if base is not None:
        before = _aligned(base, measurement)
        known = graded & (np.array([p.total for p in before]) > 0)
        solved_before = np.array([p.correct for p in before]) > 0
        rows["retention"] = known & solved_before & (correct > 0), known & solved_before
        rows["expansion"] = known & ~solved_before & (correct > 0), known & ~solved_before
    rows["distinct_correct"] = np.array([p.distinct_correct for p in measurement.prompts]), graded
    tokens = np.array([p.tokens for p in measurement.prompts])
    rows["entropy"] = np.array([p.surprise for p in measurement.prompts]), tokens
    if measurement.kl_to_base is not None:
        answers = np.array([p.total + p.ungraded if p.kl_to_base is not None else 0 for p in measurement.prompts])
        rows["kl_to_base"] = np.array([p.kl_to_base or 0.0 for p in measurement.prompts]) * answers, answers
    return rows


def _domains(measurement: Measurement) -> dict[str, np.ndarray]:
    """Which prompts [P] are of each domain; none when there are not several, or prompts without one."""
    names = [domain(p.prompt_id) for p in measurement.prompts]
    several = len(set(names)) > 1 and all("/" in p.prompt_id for p in measurement.prompts)
    return {name: np.array([own == name for own in names]) for name in sorted(set(names))} if several else {}


def _aligned(base: Measurement, other: Measurement) -> list[PromptResult]:
    """The results of `base` in the order of `other`; raises ValueError unless both are of the same prompts."""
    by_id = {p.prompt_id: p for p in base.prompts}
    ids = [p.prompt_id for p in other.prompts]
    if set(by_id) != set(ids):
        common = len(set(by_id) & set(ids))
        raise ValueError(
            f"measurements: must be of the same prompts, got {len(by_id)} of {base.name!r} and {len(ids)} of "
            f"{other.name!r} with {common} in common"
        )
    return [by_id[prompt_id] for prompt_id in ids]


def lost_and_gained(
    base: Measurement, other: Measurement
) -> tuple[list[tuple[PromptResult, PromptResult]], list[tuple[PromptResult, PromptResult]]]:
    """Prompts that only `base` solved, and that only `other` solved, as pairs (base, other); clearest cases first."""
    pairs = [(b, o) for b, o in zip(_aligned(base, other), other.prompts, strict=True) if b.total and o.total]
    lost = [(b, o) for b, o in pairs if b.correct and not o.correct]
    gained = [(b, o) for b, o in pairs if o.correct and not b.correct]
    lost.sort(key=lambda pair: (-pair[0].correct / pair[0].total, pair[0].prompt_id))
    gained.sort(key=lambda pair: (-pair[1].correct / pair[1].total, pair[0].prompt_id))
    return lost, gained


def stopped_by(rules: Sequence[str], values: Mapping[str, float]) -> str | None:
    """The first rule of `monitor.stop_if` that fires on `values`, or None. A NaN fires no rule.

    Raises ValueError when a rule names a value that is not there.
    """
    for rule in rules:
        metric, relation, limit = parse_stop_rule(rule)
        if metric not in values:
            raise ValueError(f"monitor.stop_if: must name one of {', '.join(sorted(values))}, got {metric!r}")
        if values[metric] < limit if relation == "<" else values[metric] > limit:
            return rule
    return None
