"""Graders: worker processes, deadlines and self-tests."""

from dataclasses import dataclass

from configs.checks import require_positive


@dataclass(frozen=True, kw_only=True)
class GraderConfig:
    """Settings of every grader."""

    workers: int = 1
    """Answers one grader judges at the same time. It keeps this many worker processes per verifier in use."""
    timeout_s: float = 6.0
    """Longest judgement of one answer in seconds of wall time, without the wait for a free worker. Then the worker is
    killed and the answer gets status `timeout`. Verifiers of Breadth have shorter limits of their own (countdown,
    first_number and scratchpad_sum 1 s, math 3 s, sql 5 s); the limit of `code` follows from the time limits of the
    problem alone."""
    canary_every_s: float = 300.0
    """Seconds between two self-tests of each verifier in use, with a correct and a wrong answer."""

    def __post_init__(self) -> None:
        require_positive(self, "workers", "timeout_s", "canary_every_s")
