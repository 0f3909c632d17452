"""Verdict: what a verifier says of one answer. Plain values; JSON on the wire between grader and worker."""

from dataclasses import dataclass
from typing import Literal, get_args

Status = Literal[
    "correct", "wrong", "no_answer", "timeout", "memory", "output_limit", "crash", "rejected", "grader_error"
]
"""`grader_error` is a fault of ours: it masks the trajectory and is never a 0. Every other status but `correct`
is the answer's own fault."""
STATUSES: tuple[Status, ...] = get_args(Status)
REASON_LIMIT = 500
"""Characters of `Verdict.reason` that are kept; answers of any length pass through it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The reward of one answer and why.

    Example: Verdict(reward=0.0, status="wrong", reason="evaluates to 21, not 22")
    """

    reward: float | None
    status: Status
    reason: str = ""
    """Says what is wrong with the answer and never what would have been right."""
    seconds: float = 0.0
    """Wall time of the check, without the wait for a worker."""
    cpu_seconds: float = 0.0
    tests_passed: int = 0
    tests_total: int = 0
    """Tests of a program; 0 where the verifier has none."""
    isolation: int = 0
    """The level of `rewards/sandbox/` that held while it was judged."""
    version: str = ""
    """Name and fingerprint of the verifier: with another one, the same answer may get another verdict."""

    def __post_init__(self) -> None:
        assert self.status in STATUSES, f"status: one of {STATUSES}, got {self.status!r}"
        assert (self.reward is None) == (self.status == "grader_error"), "reward is None exactly for grader_error"
        printable = "".join(c if c.isprintable() else "?" for c in self.reason[:REASON_LIMIT])
        object.__setattr__(self, "reason", printable)


def correct(reason: str = "") -> Verdict:
    return Verdict(reward=1.0, status="correct", reason=reason)


def wrong(reason: str, status: Status = "wrong") -> Verdict:
    return Verdict(reward=0.0, status=status, reason=reason)


def grader_error(reason: str) -> Verdict:
    return Verdict(reward=None, status="grader_error", reason=reason)
