"""A batch of tasks that one worker judges one after the other."""

from collections import deque
from collections.abc import Callable, Sequence

from rewards.verdict import Verdict
from rewards.workers.job import Job
from rewards.workers.process import Worker, WorkerLost


class SerialCalls:
    """Sends a batch to a worker in one frame, and reads its verdicts.

    Args:
        batch: the tasks without a verdict. A task is removed when it has one, or goes back to the queue.
        put_back: is called with tasks that go back to the queue because another one of the batch takes long.
    """

    def __init__(self, worker: Worker, batch: deque[Job], put_back: Callable[[Sequence[Job]], None]) -> None:
        self._worker, self._batch, self._put_back = worker, batch, put_back
        self._sent = list(batch)

    async def run(
        self, frame: bytes, first_limit_s: float, measure: Callable[[Sequence[Verdict], float], None]
    ) -> None:
        """Judge the batch. Raises WorkerLost as `Worker.reply` does, or if the worker needs to be replaced; its `cause`
        is the task that was being judged.

        Args:
            frame: the tasks of the batch.
            first_limit_s: least wall seconds that the first task may take.
            measure: is called with verdicts, and the seconds meanwhile in which the worker had no core.
        """
        limits = [job.timeout_s for job in self._sent]
        limits[0] = max(limits[0], first_limit_s)
        self._worker.send(frame, len(self._sent))
        try:
            while not await self._read(limits, measure):
                pass
        except WorkerLost as lost:
            job = self._sent[self._worker.judging()[0]]
            lost.cause = job if job in self._batch else None  # None: another worker judges it.
            raise

    async def _read(self, limits: Sequence[float], measure: Callable[[Sequence[Verdict], float], None]) -> bool:
        """Read one frame and return its verdicts to their callers. Return whether it was the last of the batch."""
        worker = self._worker
        message = await worker.reply(limits, self._put_others_back)
        try:
            verdicts = [worker.to_verdict(row) for row in message["verdicts"]]
            starved, worker.rss = float(message["starved"]), int(message["rss"])
            last, broken = bool(message.get("last")), bool(message.get("broken"))
        except (KeyError, TypeError, ValueError):
            raise WorkerLost("crash", "the worker sent a frame that has no verdicts") from None
        if len(verdicts) > len(self._sent) - worker.received:
            raise WorkerLost("crash", "the worker sent more verdicts than it was sent tasks")
        cause = verdicts.pop() if broken and verdicts else None
        for job, verdict in zip(self._sent[worker.received :], verdicts, strict=False):
            job.resolve(verdict)
            if job in self._batch:
                self._batch.remove(job)
        worker.received += len(verdicts)
        worker.judged += len(verdicts)
        measure(verdicts, starved)
        if cause is not None:
            raise WorkerLost(cause.status, cause.reason, cause.seconds)
        return last

    def _put_others_back(self, index: int) -> None:
        """Put back all tasks but that of this index, which takes long: those behind it, which the worker then leaves
        out, and those before it, whose verdicts it has not sent."""
        self._worker.progress.end_early(self._worker.batches)
        index = max(index, self._worker.judging()[0])  # It may have begun the next one in the meantime.
        others = [job for job in self._batch if job is not self._sent[index]]
        for job in others:
            self._batch.remove(job)
        if others:
            self._put_back(others)
