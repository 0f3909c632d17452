"""Verdict: the result of a verifier for one answer. Holds plain values only, and is sent as JSON between processes."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Status = Literal[
    "correct", "wrong", "no_answer", "timeout", "memory", "output_limit", "crash", "rejected", "grader_error"
]
"""`grader_error`: the answer could not be judged. Its trajectory is masked and is never a 0. Every other status but
`correct` is a fault of the answer."""
STATUSES: tuple[Status, ...] = get_args(Status)
UNDECIDED = "undecided: "
"""Beginning of the reason of a verdict `wrong` on an answer that was neither shown to be right nor to be wrong."""
REASON_LIMIT = 500
"""Characters of `Verdict.reason` that are kept: a reason may quote an answer of any length."""
KEY_LIMIT = 200
"""Characters of `Verdict.semantic_key` and `Verdict.vote`. A longer one is replaced by its digest."""
RIGHT_VOTE = " right"
"""`Verdict.vote` of the right answers where all of them are the same final answer. Others have no space in front."""
EXTRACTED_LIMIT = 200
"""Characters of `Verdict.extracted` that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The reward of one answer, its status and the reason.

    Example: Verdict(reward=0.0, status="wrong", reason="evaluates to 21, not 22")
    """

    reward: float | None
    """None exactly for the status grader_error."""
    status: Status
    reason: str = ""
    """What is wrong with the answer, or on what it was found correct; never the right answer."""
    seconds: float = 0.0
    """Wall time of the check, without the wait for a worker."""
    cpu_seconds: float = 0.0
    tests_passed: int = 0
    tests_total: int = 0
    """Tests of a program; 0 for a verifier without tests."""
    isolation: int = 0
    """Isolation level at which the answer was judged (see `rewards/sandbox/levels.py`)."""
    version: str = ""
    """Name and fingerprint of the verifier. Another version may give the same answer another verdict."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Further rewards of the answer by name, such as one for its format, which `objective.rewards` can weigh."""
    semantic_key: str = ""
    """Two answers to one problem with the same key are the same solution, however they are written. Empty: the verifier
    knows no key."""
    extracted: str = ""
    """The part of the answer that is compared with the gold, for an audit. Empty: there is none, or the verifier does
    not note it."""
    vote: str = ""
    """The final answer in a majority vote: answers to one problem with equal votes agree on it. Empty: it has none, or
    answers of this verifier are not voted on."""

    def __post_init__(self) -> None:
        assert self.status in STATUSES, f"status: must be one of {STATUSES}, got {self.status!r}"
        assert (self.reward is None) == (self.status == "grader_error"), "reward must be None exactly for grader_error"
        finite = all(isinstance(name, str) and math.isfinite(part) for name, part in self.parts.items())
        assert finite and "answer" not in self.parts, f"parts must be finite and not named 'answer', got {self.parts}"
        reason = self.reason[:REASON_LIMIT]
        if not reason.isprintable():
            reason = "".join(c if c.isprintable() else "?" for c in reason)
        object.__setattr__(self, "reason", reason)
        if len(self.extracted) > EXTRACTED_LIMIT:
            object.__setattr__(self, "extracted", self.extracted[:EXTRACTED_LIMIT])
        for name in ("semantic_key", "vote"):
            key = getattr(self, name)
            assert isinstance(key, str), f"{name} must be a string, got {key!r}"
            if len(key) > KEY_LIMIT:
                digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16)
                object.__setattr__(self, name, digest.hexdigest())


def correct(reason: str = "", semantic_key: str = "", extracted: str = "", vote: str = "") -> Verdict:
    """Return a verdict with reward 1."""
    return Verdict(
        reward=1.0, status="correct", reason=reason, semantic_key=semantic_key, extracted=extracted, vote=vote
    )


def wrong(reason: str, status: Status = "wrong", extracted: str = "", vote: str = "") -> Verdict:
    """Return a verdict with reward 0: the answer is at fault."""
    return Verdict(reward=0.0, status=status, reason=reason, extracted=extracted, vote=vote)


def grader_error(reason: str) -> Verdict:
    """Return a verdict without a reward: the problem, the verifier or the grader is at fault."""
    return Verdict(reward=None, status="grader_error", reason=reason)
