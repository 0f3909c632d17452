"""Graders: worker processes, deadlines and self-tests."""

from dataclasses import dataclass

from configs.checks import require


@dataclass(frozen=True, kw_only=True)
class GraderConfig:
    workers: int = 1
    """Answers one grader judges at a time; it keeps a process for each verifier in use and each of them."""
    timeout_s: float = 6.0
    """Wall seconds one answer may take, the wait for a worker not counted; its worker is killed then. Verifiers of ours
    have limits below it (countdown and scratchpad_sum 1, math 3, sql 5); that of code comes from the problem's own
    time limits alone."""
    canary_every_s: float = 300.0
    """Seconds between two tests of each verifier in use by a right and a wrong answer, among the answers it judges."""

    def __post_init__(self) -> None:
        require(self.workers > 0, "grader.workers", "must be positive", self.workers)
        require(self.timeout_s > 0, "grader.timeout_s", "must be positive", self.timeout_s)
        require(self.canary_every_s > 0, "grader.canary_every_s", "must be positive", self.canary_every_s)
