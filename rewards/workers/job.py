"""Job: a task that waits for its verdict."""

import asyncio
from dataclasses import dataclass

from rewards.verdict import Verdict
from rewards.workers.task import Task


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
