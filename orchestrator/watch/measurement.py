"""Count a policy's answers to the held-out prompts: what every value of the monitor is computed from."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trajectories.atomic_write import replace_file
from trajectories.trajectory import Group, Trajectory

EXAMPLES = 5
"""Number of distinct correct, and of distinct wrong, answers kept per prompt."""
EXAMPLE_LIMIT = 2_000
"""Characters kept of an example answer and of the prompt."""


@dataclass(frozen=True, kw_only=True)
class PromptResult:
    """Counts and sums over a policy's answers to one prompt.

    Example: PromptResult(prompt_id="countdown/heldout/7", prompt_text="3,7,12=22:", total=32, correct=5, ungraded=0,
    distinct_correct=2, majority_correct=False, tokens=180, negative_logp=101.5, log_probs=(-3.1, -3.4),
    kl_to_base=0.4, correct_answers=("3+7+12", "12+7+3"), wrong_answers=("3*7",), wrong_reasons=("wrong: 21, not 22",))
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
    log_probs: tuple[float, ...]
    """Sum of logp_sampler over each graded answer, nats; the `correct` right ones first."""
    kl_to_base: float | None
    """Mean over answers of log policy(answer) - log base(answer), nats, over generated tokens; None: not scored. The
    policy's log-prob is the sampler's in a run, and in an evaluation, which scores some of the answers, that of the
    program that scores the base."""
    correct_answers: tuple[str, ...]
    wrong_answers: tuple[str, ...]
    """Up to EXAMPLES distinct answers of each kind, for the report."""
    wrong_reasons: tuple[str, ...] = ()
    """Status and reason of each of `wrong_answers`, such as `wrong: the value is 21`; empty: not recorded."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The results of one policy on the held-out prompts."""

    name: str
    step: int
    temperature: float
    """Sampling temperature; 0: greedy decoding, whose single answer counts `answers` times."""
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

    def write(self, path: Path) -> None:
        """Write the measurement as JSON to `path`, atomically; its folder is made if it is missing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            file.write(self.to_json().encode())

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


def measure(
    groups: Sequence[Group], name: str, step: int, temperature: float, answers: int | None = None
) -> Measurement:
    """Count the correct answers of each group, and sum log-probs. Ungraded answers are counted apart.

    Args:
        answers: temperature 0: how often the only answer of each group counts. Otherwise the answers are counted.
    """
    if temperature == 0 and answers is not None:
        groups = [replace(group, trajectories=group.trajectories * answers) for group in groups]
    return Measurement(
        name=name,
        step=step,
        temperature=temperature,
        answers=max((len(group.trajectories) for group in groups), default=0),
        prompts=tuple(_prompt_result(group) for group in groups),
    )


def _prompt_result(group: Group) -> PromptResult:
    graded = [t for t in group.trajectories if t.grade is not None and t.grade.reward is not None]
    texts = [" ".join(t.text.split()) for t in graded]
    correct_texts = {text for text, t in zip(texts, graded, strict=True) if _is_correct(t)}
    whys = [f"{t.grade.status}: {t.grade.reason}".removesuffix(": ") if t.grade else "" for t in graded]
    wrong = {text: why for text, why in zip(texts, whys, strict=True) if text not in correct_texts}
    distinct_correct_texts = dict.fromkeys(text for text in texts if text in correct_texts)
    counts = Counter(texts).most_common(1)
    right_first = sorted(graded, key=_is_correct, reverse=True)
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
        log_probs=tuple(round(float(t.logp_sampler[t.mask].sum(dtype=np.float64)), 4) for t in right_first),
        kl_to_base=_kl_to_base(group.trajectories),
        correct_answers=tuple(text[:EXAMPLE_LIMIT] for text in list(distinct_correct_texts)[:EXAMPLES]),
        wrong_answers=tuple(text[:EXAMPLE_LIMIT] for text in list(wrong)[:EXAMPLES]),
        wrong_reasons=tuple(why[:EXAMPLE_LIMIT] for why in list(wrong.values())[:EXAMPLES]),
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
