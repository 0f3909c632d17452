"""Calls of one async verifier that one worker makes at the same time."""

import time
from collections.abc import Callable

from rewards.verdict import Verdict, grader_error
from rewards.workers.frames import Unsendable, pack_task
from rewards.workers.job import Job
from rewards.workers.process import Worker, WorkerLost

LATE_S = 2.0
"""Seconds after its deadline in which a call may still end. The worker cancels a call at its deadline; if a call blocks
the event loop, it cannot, and the worker is killed."""


class ConcurrentCalls:
    """Sends jobs to a worker and reads the verdicts as they come.

    Args:
        first_limit_s: wall seconds of the worker's first call. No other call starts before it has ended.
    """

    def __init__(self, worker: Worker, first_limit_s: float) -> None:
        self.worker = worker
        self.jobs: dict[int, Job] = {}
        """Jobs without a verdict, by their number in the frames."""
        self._first_limit_s = first_limit_s
        self._deadlines: dict[int, float] = {}
        self._next = 0

    @property
    def free(self) -> bool:
        """Whether the worker can take another job."""
        if any(job.alone for job in self.jobs.values()):
            return False
        return len(self.jobs) < (self.worker.calls if self.worker.judged else 1)

    def send(self, job: Job) -> None:
        """Start a call."""
        limit = job.timeout_s if self.worker.judged else max(job.timeout_s, self._first_limit_s)
        try:
            self.worker.writer.write(pack_task(job.task, {"call": self._next, "limit_s": limit}))
        except Unsendable as error:
            job.resolve(grader_error(str(error)))
            return
        self.jobs[self._next] = job
        self._deadlines[self._next] = time.monotonic() + limit
        self._next += 1

    async def run(self, done: Callable[[Job, Verdict], None]) -> None:
        """Read verdicts until every job has one. Raises WorkerLost as `Worker.reply` does.

        Args:
            done: is called with each job and its verdict, and may send further jobs.
        """
        while self.jobs:
            earliest = min(self._deadlines.values()) + LATE_S
            message = await self.worker.reply([max(earliest - time.monotonic(), 0.0)])
            number, verdict = message.get("call"), self.worker.to_verdict(message.get("verdict"))
            self.worker.judged += 1
            if number not in self.jobs:
                raise WorkerLost("crash", "the worker sent a frame of no call")
            del self._deadlines[number]
            done(self.jobs.pop(number), verdict)
