"""Task: one answer to be judged. Job: a task that waits for its verdict."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rewards.registry import NO_CONTEXT
from rewards.verdict import Verdict


class Task(NamedTuple):
    """One answer, its problem and its verifier.

    Example: Task("countdown", {"numbers": [3, 7, 12], "target": 22}, "3+7+12")
    """

    verifier: str
    problem: Mapping[str, Any]
    answer: str | None
    """None: check the problem itself. A problem with faults is wrong, with the faults as the reason."""
    context: Mapping[str, Any] = NO_CONTEXT
    """What a user verifier may be told besides (see `rewards.forms.Call`)."""


@dataclass(eq=False, slots=True)
class Job:
    """One task, its deadline, the future that its caller awaits, and the number of workers it has lost."""

    task: Task
    timeout_s: float
    future: asyncio.Future[Verdict]
    crashes: int = 0
    alone: bool = False
    """Whether no other call may run in its worker meanwhile: a worker was lost, and it is not known through which."""

    def resolve(self, verdict: Verdict) -> None:
        """Return the verdict to the caller, unless the caller has been cancelled."""
        if not self.future.done():
            self.future.set_result(verdict)
