"""A pool of worker processes that judge answers, one at a time each, and are killed when an answer takes too long.

What it stops: a verifier that hangs, crashes, prints, leaks memory or ends its process, and (for our own verifiers) one
that takes over 4 GiB. What it does not stop: a worker has the user's rights, files and network, so it runs verifiers,
which are trusted, on answers, which are data. It does not run code or queries found in answers.

The parent keeps every deadline and takes replies in order, so a worker that dies is blamed on the first task it has not
answered; the tasks behind that one go back to the queue without blame.
"""

import asyncio
import contextlib
import socket
import tempfile
from collections import deque
from dataclasses import dataclass
from typing import Any

from rewards.sandbox.process import START_TIMEOUT_S, StartFailed, Worker, WorkerLost, spawn
from rewards.sandbox.worker import FRAME_LIMIT, pack

BATCH = 32
"""Tasks on their way to one worker at a time."""
TRIES = 2
"""An answer whose worker died or stuck is judged once more."""
VERDICT_KEYS = {"reward", "status", "reason", "seconds"}


@dataclass(eq=False)
class Job:
    """One task, the future its caller waits on, and how often it took a worker with it."""

    verifier: str
    frame: bytes
    future: asyncio.Future[dict[str, Any]]
    tries: int = 0


class Pool:
    """`run` judges tasks on `workers` processes; a spare one is kept warm from the first replacement on.

    Processes start with the first task, inside the running event loop.
    """

    def __init__(self, workers: int, timeout_s: float) -> None:
        self.workers = workers
        self.timeout_s = timeout_s
        self.respawns = 0
        self._waiting: deque[Job] = deque()
        self._wake = asyncio.Event()
        self._slots: list[asyncio.Task[None]] = []
        self._spare: asyncio.Task[Worker] | None = None
        self._running: set[Worker] = set()
        self._verifiers: set[str] = set()
        self._closed = False

    async def run(self, task: dict[str, Any]) -> dict[str, Any]:
        """The verdict {reward, status, reason, seconds} of a task {verifier, problem, answer}; raises nothing of the
        answer's or the worker's making."""
        assert not self._closed, "the pool is closed"
        frame = pack(task)
        if len(frame) > FRAME_LIMIT:
            return _verdict(None, "grader_error", f"the task takes {len(frame)} bytes, above {FRAME_LIMIT}")
        for slot in self._slots:
            if slot.done():
                slot.result()
        job = Job(task["verifier"], frame, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._wake.set()
        if not self._slots:
            self._slots = [asyncio.create_task(self._serve()) for _ in range(self.workers)]
        return await job.future

    async def close(self) -> None:
        """End and reap every process; callers still waiting are cancelled."""
        self._closed = True
        ending = [*self._slots, *([self._spare] if self._spare else [])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await asyncio.gather(*(self._end(worker) for worker in list(self._running)))
        for job in self._waiting:
            job.future.cancel()

    async def _serve(self) -> None:
        """The life of one slot: take a batch, have a worker, judge, replace the worker when it is lost or outgrown."""
        worker: Worker | None = None
        batch: deque[Job] = deque()
        try:
            while True:
                batch = await self._take()
                try:
                    if worker is not None and not worker.alive:
                        await self._retire(worker)
                        worker = None
                    worker = worker or await self._acquire()
                    await worker.prepare(batch[0].verifier)
                    self._verifiers.add(batch[0].verifier)
                    await self._judge(worker, batch)
                    if not worker.outgrown():
                        continue
                except WorkerLost as lost:
                    self._blame(batch, lost)
                except StartFailed as failure:
                    self._fail(batch, str(failure))
                if worker is not None:
                    await self._retire(worker)
                    worker = None
        except Exception as error:  # a fault of this file: whoever waits must hear of it
            for job in (*batch, *self._waiting):
                if not job.future.done():
                    job.future.set_exception(error)
            raise
        finally:
            for job in batch:
                job.future.cancel()

    async def _take(self) -> deque[Job]:
        """A fair share of what waits, in order: at most BATCH, all for one verifier."""
        while not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        batch = deque([self._waiting.popleft()])
        share = min(-(-len(self._waiting) // self.workers), BATCH)
        while self._waiting and len(batch) < share and self._waiting[0].verifier == batch[0].verifier:
            batch.append(self._waiting.popleft())
        return batch

    async def _judge(self, worker: Worker, batch: deque[Job]) -> None:
        """Send the batch, take its verdicts one by one; whoever is answered leaves the batch."""
        worker.writer.write(b"".join(job.frame for job in batch))
        while batch:
            verdict = await worker.reply(self.timeout_s)
            if verdict.keys() != VERDICT_KEYS:
                raise WorkerLost("crash", "the worker sent a frame that is no verdict")
            worker.judged += 1
            _settle(batch.popleft(), verdict)

    def _blame(self, batch: deque[Job], lost: WorkerLost) -> None:
        """The first task without an answer is the one that took the worker; the others only waited behind it."""
        culprit = batch[0]
        culprit.tries += 1
        if culprit.tries == TRIES:
            seconds = TRIES * self.timeout_s if lost.status == "timeout" else 0.0
            _settle(batch.popleft(), _verdict(0.0, lost.status, f"{lost.reason}, {TRIES} times", seconds))
        self._waiting.extendleft(reversed(batch))
        batch.clear()
        self._wake.set()

    def _fail(self, batch: deque[Job], reason: str) -> None:
        """No worker for this verifier: everyone who waits for it is told, so that nobody waits for ever."""
        verifier = batch[0].verifier
        failed = [*batch, *(job for job in self._waiting if job.verifier == verifier)]
        self._waiting = deque(job for job in self._waiting if job.verifier != verifier)
        batch.clear()
        for job in failed:
            _settle(job, _verdict(None, "grader_error", reason))

    async def _acquire(self) -> Worker:
        """The spare if it is well, else a new worker. Raises StartFailed."""
        spare, self._spare = self._spare, None
        worker: Worker | None = None
        if spare is not None:
            with contextlib.suppress(StartFailed):
                worker = await spare
        if worker is not None and not worker.alive:
            await self._end(worker)
            worker = None
        worker = worker or await self._start()
        if self.respawns and self._spare is None:
            self._spare = asyncio.create_task(self._start())
        return worker

    async def _retire(self, worker: Worker) -> None:
        self.respawns += 1
        await self._end(worker)

    async def _end(self, worker: Worker) -> None:
        await worker.end()
        self._running.discard(worker)

    async def _start(self) -> Worker:
        """A worker that has reported ready and loaded the verifiers in use. Raises StartFailed with what it wrote."""
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        with theirs, tempfile.TemporaryFile() as errors:
            try:
                process = spawn(theirs, errors)
            except OSError as error:
                writer.close()
                raise StartFailed(f"a worker could not start: {error}") from None
            theirs.close()
            worker = Worker(process, reader, writer)
            self._running.add(worker)
            try:
                await worker.reply(START_TIMEOUT_S)
                for verifier in sorted(self._verifiers):
                    await worker.prepare(verifier)
            except BaseException as failure:
                await self._end(worker)
                if not isinstance(failure, WorkerLost):
                    raise
                errors.seek(0)
                wrote = errors.read()[-400:].decode(errors="replace").strip()
                raise StartFailed(f"a worker could not start: {failure.reason}; {wrote}") from None
        return worker


def _settle(job: Job, verdict: dict[str, Any]) -> None:
    if not job.future.done():
        job.future.set_result(verdict)


def _verdict(reward: float | None, status: str, reason: str, seconds: float = 0.0) -> dict[str, Any]:
    return {"reward": reward, "status": status, "reason": reason, "seconds": seconds}
