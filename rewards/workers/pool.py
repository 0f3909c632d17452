"""A pool of worker processes. Each judges one answer at a time and is killed when an answer exceeds its deadline.

The pool keeps working when a verifier hangs, crashes, prints, leaks memory, ends its process or starts others. A worker
of a built-in verifier is also confined (`rewards/sandbox/confinement.py`), and programs in answers run in boxes
(`rewards/sandbox/box.py`). A user verifier is trusted: it has the user's rights, files and network.

The pool measures the deadlines and reads replies in order. When a worker dies, the first task without a verdict is the
cause, and the tasks behind it go back to the queue. Time in the queue does not count towards a deadline.
"""

import asyncio
import contextlib
import socket
import tempfile
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rewards.registry import NO_CONTEXT, deadline_s
from rewards.verdict import Verdict, grader_error, wrong
from rewards.workers.process import StartFailed, Worker, WorkerLost, spawn
from rewards.workers.worker import FRAME_LIMIT, pack

BATCH = 32
"""Tasks sent to one worker at a time."""
LONG_S = 5.0
"""Tasks with a longer deadline are sent one by one: in a batch they would wait while another worker idles."""
WORKERS_PER_SLOT = 4
"""Workers, each of another verifier, that one slot keeps. The least recently used one is ended."""
WAITING_LIMIT = 1_024
"""Tasks held in memory as frames. Further callers wait before their frame is made."""
TRIES, TRIES_IF_KILLED = 2, 4
"""Attempts to judge an answer, each on a new worker: TRIES if its worker crashes or reports that it needs a new
process, TRIES_IF_KILLED if its worker is killed by SIGKILL."""


@dataclass(eq=False)
class Job:
    """One task, the future that its caller awaits, and the number of workers it has lost."""

    verifier: str
    frame: bytes
    timeout_s: float
    future: asyncio.Future[Verdict]
    crashes: int = 0


class Pool:
    """Judges tasks in slots. A slot judges one task at a time and keeps one worker for each verifier it has run.

    After a verifier has lost a worker, a spare worker of it is started ahead. Processes start with the first task,
    inside the running event loop.

    Args:
        workers: number of slots.
        timeout_s: upper bound on the wall seconds of one answer (see `rewards.registry.deadline_s`).
    """

    def __init__(self, workers: int, timeout_s: float) -> None:
        self.workers = workers
        self.timeout_s = timeout_s
        self.respawns = 0
        """Workers replaced since the start."""
        self._capacity = asyncio.Semaphore(WAITING_LIMIT)
        self._waiting: deque[Job] = deque()
        self._wake = asyncio.Event()
        self._slots: list[asyncio.Task[None]] = []
        self._spares: dict[str, asyncio.Task[Worker]] = {}
        self._need_spare: set[str] = set()
        """Verifiers that have lost a worker: a spare worker is started for them."""
        self._running: set[Worker] = set()
        self._closed = False

    async def run(
        self, verifier: str, problem: Mapping[str, Any], answer: str | None, context: Mapping[str, Any] = NO_CONTEXT
    ) -> Verdict:
        """Return the verdict on one answer. No answer, problem or worker can make it raise.

        Args:
            answer: None: check the problem itself; a problem with faults is wrong, with the faults as the reason.
        """
        async with self._capacity:
            assert not self._closed, "the pool is closed"
            try:
                frame = pack({"problem": dict(problem), "answer": answer, "context": dict(context)})
                limit = deadline_s(verifier, problem, self.timeout_s)
            except Exception as error:  # The problem may hold any value, also one that is not JSON.
                return grader_error(f"the problem cannot be used ({type(error).__name__}: {error})")
            if len(frame) > FRAME_LIMIT:
                return grader_error(f"the task takes {len(frame)} bytes, above {FRAME_LIMIT}")
            for slot in self._slots:
                if slot.done():
                    slot.result()
            job = Job(verifier, frame, limit, asyncio.get_running_loop().create_future())
            self._waiting.append(job)
            self._wake.set()
            if not self._slots:
                self._slots = [asyncio.create_task(self._serve()) for _ in range(self.workers)]
            return await job.future

    async def close(self) -> None:
        """End and reap every process, and cancel the callers that still wait."""
        self._closed = True
        ending = [*self._slots, *self._spares.values()]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await asyncio.gather(*(self._end(worker) for worker in list(self._running)))
        for job in self._waiting:
            job.future.cancel()

    async def _serve(self) -> None:
        """Run one slot: take a batch, get a worker, judge the batch, and replace the worker where needed."""
        kept: dict[str, Worker] = {}
        batch: deque[Job] = deque()
        try:
            while True:
                batch = await self._take()
                verifier = batch[0].verifier
                worker = kept.pop(verifier, None)
                try:
                    if worker is not None and not worker.alive:
                        await self._retire(worker)
                        worker = None
                    worker = worker or await self._acquire(verifier)
                    await self._judge(worker, batch)
                    if not worker.needs_replacement():
                        kept[verifier] = worker
                        if len(kept) > WORKERS_PER_SLOT:
                            await self._end(kept.pop(next(iter(kept))))
                    else:
                        await self._retire(worker)
                except WorkerLost as lost:
                    assert worker is not None, "WorkerLost is raised by a running worker only"
                    # First, so that no process of the answer runs when its caller gets the verdict.
                    await self._retire(worker)
                    self._requeue(batch, worker, lost)
                except StartFailed as failure:
                    self._fail(batch, str(failure))
        except Exception as error:  # A fault of this file. Every waiting caller must get it, or it would wait for ever.
            for job in (*batch, *self._waiting):
                if not job.future.done():
                    job.future.set_exception(error)
            raise
        finally:
            for job in batch:
                job.future.cancel()

    async def _take(self) -> deque[Job]:
        """Wait for tasks and return the first ones as a batch, all of one verifier.

        The batch has at most BATCH tasks, and at most the waiting tasks divided by the slots, so that no slot idles.
        """
        while not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        batch = deque([self._waiting.popleft()])
        size = 1 if batch[0].timeout_s > LONG_S else min(-(-len(self._waiting) // self.workers), BATCH)
        while self._waiting and len(batch) < size and self._waiting[0].verifier == batch[0].verifier:
            batch.append(self._waiting.popleft())
        return batch

    async def _judge(self, worker: Worker, batch: deque[Job]) -> None:
        """Send the batch and read its verdicts one by one. A task with a verdict is removed from the batch."""
        worker.writer.write(b"".join(job.frame for job in batch))
        while batch:
            verdict = await worker.verdict(batch[0].timeout_s)
            _set_verdict(batch.popleft(), verdict)

    def _requeue(self, batch: deque[Job], worker: Worker, lost: WorkerLost) -> None:
        """Put the tasks without a verdict back into the queue, except the first one if it has no attempts left.

        The first one is the task whose check ended the worker. The others only waited behind it.
        """
        first = batch[0]
        first.crashes += 1
        if lost.status == "timeout" or first.crashes >= (TRIES_IF_KILLED if lost.killed else TRIES):
            reason = lost.reason if lost.status == "timeout" else f"{lost.reason}, {first.crashes} times"
            verdict = grader_error(reason) if lost.status == "grader_error" else wrong(reason, lost.status)
            _set_verdict(batch.popleft(), worker.add_origin(replace(verdict, seconds=lost.seconds)))
        self._waiting.extendleft(reversed(batch))
        batch.clear()
        self._wake.set()

    def _fail(self, batch: deque[Job], reason: str) -> None:
        """Return a grader_error for every waiting task of a verifier whose worker cannot start."""
        verifier = batch[0].verifier
        failed = [*batch, *(job for job in self._waiting if job.verifier == verifier)]
        self._waiting = deque(job for job in self._waiting if job.verifier != verifier)
        batch.clear()
        for job in failed:
            _set_verdict(job, grader_error(reason))

    async def _acquire(self, verifier: str) -> Worker:
        """Return the spare worker if it is alive, else a new one. Raises StartFailed."""
        spare = self._spares.pop(verifier, None)
        worker: Worker | None = None
        if spare is not None:
            with contextlib.suppress(StartFailed):
                worker = await spare
        if worker is not None and not worker.alive:
            await self._end(worker)
            worker = None
        tries = TRIES_IF_KILLED
        while worker is None:
            try:
                worker = await self._start(verifier)
            except StartFailed as failure:
                tries -= 1
                if not failure.killed or not tries:
                    raise
        if verifier in self._need_spare and verifier not in self._spares:
            self._spares[verifier] = asyncio.create_task(self._start(verifier))
        return worker

    async def _retire(self, worker: Worker) -> None:
        self.respawns += 1
        self._need_spare.add(worker.verifier)
        await self._end(worker)

    async def _end(self, worker: Worker) -> None:
        await worker.end()
        self._running.discard(worker)

    async def _start(self, verifier: str) -> Worker:
        """Start a worker and wait until it has loaded the verifier.

        Raises StartFailed with the last characters of the worker's standard error.
        """
        own_end, worker_end = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=own_end)
        with worker_end, tempfile.TemporaryFile() as errors:
            try:
                process = spawn(verifier, worker_end, errors)
            except OSError as error:
                writer.close()
                raise StartFailed(f"a worker could not start: {error}") from None
            worker_end.close()
            worker = Worker(verifier, process, reader, writer)
            self._running.add(worker)
            try:
                await worker.ready()
            except BaseException as failure:
                await self._end(worker)
                if not isinstance(failure, WorkerLost):
                    raise
                errors.seek(0)
                output = errors.read()[-400:].decode(errors="replace").strip()
                text = f"a worker could not start: {failure.reason}; {output}"
                raise StartFailed(text, killed=failure.killed) from None
        return worker


def _set_verdict(job: Job, verdict: Verdict) -> None:
    """Resolve the caller's future, unless the caller has been cancelled."""
    if not job.future.done():
        job.future.set_result(verdict)
