"""A pool of worker processes that judge answers, one at a time each, and are killed when an answer takes too long.

What it stops: a verifier that hangs, crashes, prints, leaks memory, ends its process or leaves others behind. A worker
of a verifier of ours is confined besides (`confinement.py`), and programs found in answers run in boxes of their own
(`box.py`). What it does not stop: a user's own verifier has the user's rights, files and network, and is trusted.

The parent keeps every deadline and takes replies in order, so a worker that dies is blamed on the first task it has not
answered; the tasks behind that one go back to the queue without blame. Time in the queue is nobody's.
"""

import asyncio
import contextlib
import socket
import tempfile
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rewards.registry import deadline_s
from rewards.verdict import Verdict, grader_error, wrong
from rewards.workers.process import StartFailed, Worker, WorkerLost, spawn
from rewards.workers.worker import FRAME_LIMIT, pack

BATCH = 32
"""Tasks on their way to one worker at a time."""
LONG_S = 5.0
"""Tasks that may take longer are not sent ahead: they would wait behind each other while another worker idles."""
WORKERS_PER_SLOT = 4
"""Verifiers that one slot keeps workers for; the one unused for longest is ended."""
WAITING_LIMIT = 1_024
"""Tasks held as frames; further callers wait before theirs is made."""
TRIES, TRIES_IF_KILLED = 2, 4
"""Times an answer is judged, each on a fresh worker, whose worker crashes or becomes unfit, and whose is killed."""


@dataclass(eq=False)
class Job:
    """One task, the future its caller waits on, and how often its worker crashed."""

    verifier: str
    frame: bytes
    timeout_s: float
    future: asyncio.Future[Verdict]
    crashes: int = 0


class Pool:
    """`run` judges tasks in `workers` slots. A slot judges one task at a time and keeps a worker for each verifier it
    has met; once a verifier lost a worker, a spare one is kept warm.

    `timeout_s` is the wall seconds one answer may take (see `rewards.registry.deadline_s`). Processes start with the
    first task, inside the running event loop.
    """

    def __init__(self, workers: int, timeout_s: float) -> None:
        self.workers = workers
        self.timeout_s = timeout_s
        self.respawns = 0
        self._room = asyncio.Semaphore(WAITING_LIMIT)
        self._waiting: deque[Job] = deque()
        self._wake = asyncio.Event()
        self._slots: list[asyncio.Task[None]] = []
        self._spares: dict[str, asyncio.Task[Worker]] = {}
        self._lossy: set[str] = set()
        self._running: set[Worker] = set()
        self._closed = False

    async def run(self, verifier: str, problem: Mapping[str, Any], answer: str) -> Verdict:
        """The verdict on one answer; raises nothing of the answer's or the worker's making."""
        async with self._room:
            assert not self._closed, "the pool is closed"
            try:
                frame = pack({"problem": dict(problem), "answer": answer})
                limit = deadline_s(verifier, problem, self.timeout_s)
            except Exception as error:  # whatever a problem holds that is no problem
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
        """End and reap every process; callers still waiting are cancelled."""
        self._closed = True
        ending = [*self._slots, *self._spares.values()]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await asyncio.gather(*(self._end(worker) for worker in list(self._running)))
        for job in self._waiting:
            job.future.cancel()

    async def _serve(self) -> None:
        """The life of one slot: take a batch, have a worker, judge, replace the worker when it is lost or outgrown."""
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
                    if not worker.outgrown():
                        kept[verifier] = worker
                        if len(kept) > WORKERS_PER_SLOT:
                            await self._end(kept.pop(next(iter(kept))))
                    else:
                        await self._retire(worker)
                except WorkerLost as lost:
                    assert worker is not None, "only a worker at work is lost"
                    await self._retire(worker)  # the verdict comes when nothing of the answer runs any more
                    self._blame(batch, worker, lost)
                except StartFailed as failure:
                    self._fail(batch, str(failure))
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
        share = 1 if batch[0].timeout_s > LONG_S else min(-(-len(self._waiting) // self.workers), BATCH)
        while self._waiting and len(batch) < share and self._waiting[0].verifier == batch[0].verifier:
            batch.append(self._waiting.popleft())
        return batch

    async def _judge(self, worker: Worker, batch: deque[Job]) -> None:
        """Send the batch, take its verdicts one by one; whoever is answered leaves the batch."""
        worker.writer.write(b"".join(job.frame for job in batch))
        while batch:
            verdict = await worker.verdict(batch[0].timeout_s)
            _settle(batch.popleft(), verdict)

    def _blame(self, batch: deque[Job], worker: Worker, lost: WorkerLost) -> None:
        """The first task without an answer is the one that took the worker; the others only waited behind it."""
        culprit = batch[0]
        culprit.crashes += 1
        if lost.status == "timeout" or culprit.crashes >= (TRIES_IF_KILLED if lost.killed else TRIES):
            reason = lost.reason if lost.status == "timeout" else f"{lost.reason}, {culprit.crashes} times"
            verdict = grader_error(reason) if lost.status == "grader_error" else wrong(reason, lost.status)
            _settle(batch.popleft(), worker.signed(replace(verdict, seconds=lost.seconds)))
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
            _settle(job, grader_error(reason))

    async def _acquire(self, verifier: str) -> Worker:
        """The spare if it is well, else a new worker. Raises StartFailed."""
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
        if verifier in self._lossy and verifier not in self._spares:
            self._spares[verifier] = asyncio.create_task(self._start(verifier))
        return worker

    async def _retire(self, worker: Worker) -> None:
        self.respawns += 1
        self._lossy.add(worker.verifier)
        await self._end(worker)

    async def _end(self, worker: Worker) -> None:
        await worker.end()
        self._running.discard(worker)

    async def _start(self, verifier: str) -> Worker:
        """A worker that has loaded the verifier. Raises StartFailed with what it wrote."""
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        with theirs, tempfile.TemporaryFile() as errors:
            try:
                process = spawn(verifier, theirs, errors)
            except OSError as error:
                writer.close()
                raise StartFailed(f"a worker could not start: {error}") from None
            theirs.close()
            worker = Worker(verifier, process, reader, writer)
            self._running.add(worker)
            try:
                await worker.ready()
            except BaseException as failure:
                await self._end(worker)
                if not isinstance(failure, WorkerLost):
                    raise
                errors.seek(0)
                wrote = errors.read()[-400:].decode(errors="replace").strip()
                text = f"a worker could not start: {failure.reason}; {wrote}"
                raise StartFailed(text, killed=failure.killed) from None
        return worker


def _settle(job: Job, verdict: Verdict) -> None:
    if not job.future.done():
        job.future.set_result(verdict)
