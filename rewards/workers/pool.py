"""A pool of worker processes. Each is killed when an answer exceeds its deadline.

The pool keeps working when a verifier hangs, crashes, prints, leaks memory, ends its process or starts others. A worker
of a built-in verifier is also confined (`rewards/sandbox/confinement.py`), and programs in answers run in boxes
(`rewards/sandbox/box.py`). A user verifier is trusted: it has the user's rights, files and network.

A worker judges one answer at a time, that of an async verifier many. It gets a batch in one frame, and notes in shared
memory which answer it is judging (`progress.py`). From that the pool measures the deadline of each answer, and knows
which one was being judged when a worker died: it is the cause, and the others without a verdict go back to the queue.
So do the tasks behind an answer that takes long, at once. Of several calls at a time each may be the cause, so all go
back, and each is judged with no other call beside it. Time in the queue does not count towards a deadline.
"""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

from rewards.registry import NO_CONTEXT, VERIFIERS, deadline_s
from rewards.verdict import Verdict, grader_error
from rewards.workers.concurrent_calls import ConcurrentCalls
from rewards.workers.demand import MOST, Demand, machine_cores
from rewards.workers.frames import Unsendable, pack_batch
from rewards.workers.job import Job
from rewards.workers.process import StartFailed, Worker, WorkerLost
from rewards.workers.serial_calls import SerialCalls
from rewards.workers.task import Task
from rewards.workers.worker_set import TRIES_IF_KILLED, WorkerSet

BATCH = 32
"""Tasks sent to one worker at a time."""
LONG_S = 5.0
"""Tasks of built-in verifiers with a longer deadline are sent one by one: in a batch they would wait while another
worker idles."""
IDLE_WORKERS = 4
"""Workers that are kept idle for each one that may be busy."""
BATCH_CHARACTERS = 2**20
"""Characters of the answers of a batch, unless it is one answer."""
TRIES = 2
"""Attempts to judge an answer, each on a new worker: TRIES if its worker crashes or reports that it needs a new
process, TRIES_IF_KILLED if its worker is killed by SIGKILL."""


class Pool:
    """Judges tasks, each in a worker of its verifier.

    Processes start with the first task, inside the running event loop.

    Args:
        workers: workers that are busy at a time. 0: for a built-in verifier one for each core, for a user verifier as
            many as its calls need (see `rewards/workers/demand.py`); an async one has one worker.
        timeout_s: upper bound on the wall seconds of one answer (see `rewards.registry.deadline_s`).
        first_call_timeout_s: the same for loading a user verifier, and for the first answer in a worker of it.
        cores: used where `workers` is 0. 0: those of the machine.
    """

    def __init__(self, workers: int, timeout_s: float, first_call_timeout_s: float, cores: int = 0) -> None:
        self.workers, self.timeout_s, self.first_call_timeout_s = workers, timeout_s, first_call_timeout_s
        self.cores = cores or machine_cores()
        self._most = workers or max(self.cores, MOST)
        """Workers that may be busy."""
        self._workers = WorkerSet(IDLE_WORKERS * self._most, first_call_timeout_s)
        self._waiting: dict[str, deque[Job]] = defaultdict(deque)
        """Tasks by verifier."""
        self._busy: Counter[str] = Counter()
        """Workers that judge or start, by verifier."""
        self._calls: list[ConcurrentCalls] = []
        """Those of the busy workers of async verifiers."""
        self._demand: dict[str, Demand] = defaultdict(Demand)
        self._serving: set[asyncio.Task[None]] = set()
        self._failure: Exception | None = None
        self._closed = False
        self._dispatching = False
        """Whether `_dispatch` runs at the end of this pass of the event loop."""

    @property
    def respawns(self) -> int:
        """Workers replaced since the start."""
        return self._workers.respawns

    def submit(self, tasks: Sequence[Task]) -> list[asyncio.Future[Verdict]]:
        """Start to judge answers, and return the future verdict on each. No answer, problem or worker can make one
        raise. The caller may not cancel them."""
        assert not self._closed, "the pool is closed"
        if self._failure is not None:
            raise self._failure
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Verdict]] = []
        for task in tasks:
            future: asyncio.Future[Verdict] = loop.create_future()
            futures.append(future)
            try:
                limit = deadline_s(task.verifier, task.problem, self.timeout_s)
            except Exception as error:  # The problem may hold any value.
                future.set_result(grader_error(f"the problem cannot be used ({type(error).__name__}: {error})"))
                continue
            self._waiting[task.verifier].append(Job(task, limit, future))
        if not self._dispatching:  # Tasks of several callers in this pass of the event loop share batches.
            self._dispatching = True
            loop.call_soon(self._dispatch)
        return futures

    async def run(
        self, verifier: str, problem: Mapping[str, Any], answer: str | None, context: Mapping[str, Any] = NO_CONTEXT
    ) -> Verdict:
        """Return the verdict on one answer, as `submit` does. The arguments are the fields of Task."""
        return await self.submit([Task(verifier, problem, answer, context)])[0]

    async def load(self, verifier: str) -> None:
        """Start a worker of the verifier, and keep it. Raises StartFailed if the verifier cannot be loaded."""
        await self._workers.keep(await self._workers.get(verifier))

    async def close(self) -> None:
        """End and reap every process, and cancel the callers that still wait."""
        self._closed = True
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await self._workers.close()
        for jobs in self._waiting.values():
            for job in jobs:
                job.future.cancel()

    def _dispatch(self) -> None:
        """Give waiting tasks to the calls of async workers, and start to serve the others, as far as workers may be
        busy. Verifiers take turns."""
        self._dispatching = False
        if self._closed:
            return
        for calls in self._calls:
            jobs = self._waiting[calls.worker.verifier]
            while jobs and calls.free and not jobs[0].alone and not self._keeps_others_waiting(calls.worker.verifier):
                calls.send(jobs.popleft())
        while self._busy.total() < self._most:
            able = [v for v, jobs in self._waiting.items() if jobs and self._busy[v] < self._limit(v)]
            if not able:
                return
            verifier = min(able, key=lambda v: self._busy[v])
            self._busy[verifier] += 1
            self._waiting[verifier] = self._waiting.pop(verifier)  # Last in turn among those with equally many workers.
            serving = asyncio.create_task(self._serve(verifier, self._take(verifier)))
            self._serving.add(serving)
            serving.add_done_callback(self._serving.discard)

    def _keeps_others_waiting(self, verifier: str) -> bool:
        """Return whether tasks of other verifiers wait, and no further worker may be busy."""
        return self._busy.total() >= self._most and any(
            jobs for other, jobs in self._waiting.items() if other != verifier
        )

    def _limit(self, verifier: str) -> int:
        """Return the number of workers of the verifier that may be busy."""
        if self.workers:
            return self.workers
        return self.cores if verifier in VERIFIERS else self._demand[verifier].workers(self.cores)

    def _take(self, verifier: str) -> deque[Job]:
        """Return the first waiting tasks of the verifier as a batch.

        A batch has at most BATCH tasks, and as many as take a few milliseconds, by the calls so far. Longer tasks of a
        built-in verifier are divided among the workers, those of a user verifier are taken one by one.
        """
        jobs = self._waiting[verifier]
        size = self._demand[verifier].batch()
        if verifier in VERIFIERS:
            size = max(size, -(-len(jobs) // self._limit(verifier)))
        size = min(size, len(jobs), BATCH)
        batch, characters = deque([jobs.popleft()]), 0
        if verifier in VERIFIERS and batch[0].timeout_s > LONG_S:
            return batch
        while len(batch) < size:
            characters += len(batch[-1].task.answer or "")
            if characters > BATCH_CHARACTERS or (verifier in VERIFIERS and jobs[0].timeout_s > LONG_S):
                break
            batch.append(jobs.popleft())
        return batch

    async def _serve(self, verifier: str, batch: deque[Job]) -> None:
        """Get a worker, judge the batch, and replace the worker where needed."""
        worker: Worker | None = None
        try:
            try:
                worker = await self._workers.get(verifier)
                await (self._judge if worker.calls == 1 else self._judge_many)(worker, batch)
                await self._workers.keep(worker)
            except WorkerLost as lost:
                assert worker is not None, "WorkerLost is raised by a running worker only"
                # First, so that no process of the answer runs when its caller gets the verdict.
                await self._workers.retire(worker)
                self._requeue(batch, worker, lost)
            except StartFailed as failure:
                self._fail(batch, str(failure))
        except Exception as error:  # A fault of this file. Every waiting caller must get it, or it would wait for ever.
            self._failure = error
            for job in (*batch, *(job for jobs in self._waiting.values() for job in jobs)):
                if not job.future.done():
                    job.future.set_exception(error)
            self._waiting.clear()
        finally:
            for job in batch:
                job.future.cancel()
            self._busy[verifier] -= 1
            self._dispatch()

    async def _judge(self, worker: Worker, batch: deque[Job]) -> None:
        """Send the batch and read its verdicts. A task with a verdict is removed from the batch."""
        frame = self._frame(batch)
        if not batch:
            return

        def put_back(jobs: Sequence[Job]) -> None:
            self._waiting[worker.verifier].extendleft(reversed(jobs))
            self._dispatch()

        def measure(verdicts: Sequence[Verdict], starved: float) -> None:
            self._measure(worker, verdicts, starved)

        first_limit_s = 0.0 if worker.verifier in VERIFIERS else self._first_limit_s(worker)
        await SerialCalls(worker, batch, put_back).run(frame, first_limit_s, measure)

    def _frame(self, batch: deque[Job]) -> bytes:
        """Return the frame of a batch. Tasks that cannot be sent get a grader_error and are removed; if there are any,
        the batch is the first other task, and the rest goes back to the queue."""
        jobs = list(batch)
        try:
            return pack_batch([job.task for job in jobs])
        except Unsendable as error:
            batch.clear()
            if len(jobs) == 1:
                jobs[0].resolve(grader_error(str(error)))
                return b""
        while jobs:
            batch.append(jobs.pop(0))
            frame = self._frame(batch)
            if batch:
                self._waiting[batch[0].task.verifier].extendleft(reversed(jobs))
                return frame
        return b""

    async def _judge_many(self, worker: Worker, batch: deque[Job]) -> None:
        """Send the batch and, while it is judged, further tasks of the verifier. Those without a verdict are in the
        batch at the end."""
        calls = ConcurrentCalls(worker, self._first_limit_s(worker))

        def done(job: Job, verdict: Verdict) -> None:
            self._measure(worker, [verdict])
            job.resolve(verdict)
            self._dispatch()

        calls.send(batch.popleft())
        assert not batch, "tasks of an async verifier are taken one by one"
        self._calls.append(calls)
        try:
            await calls.run(done)
        finally:
            self._calls.remove(calls)
            batch.extend(calls.jobs.values())

    def _first_limit_s(self, worker: Worker) -> float:
        """Return the wall seconds of the first answer in a worker of a user verifier; 0 for a later answer."""
        if worker.judged:
            return 0.0
        return self._demand[worker.verifier].first_limit_s(self.first_call_timeout_s)

    def _measure(self, worker: Worker, verdicts: Sequence[Verdict], starved: float = 0.0) -> None:
        """Note the time that calls took. More workers of a user verifier may be busy then."""
        demand = self._demand[worker.verifier]
        if verdicts and worker.judged == len(verdicts):
            demand.add_first(verdicts[0].seconds)
            verdicts = verdicts[1:]
        if verdicts and worker.calls == 1:
            for verdict in verdicts:
                demand.add(verdict.seconds, verdict.cpu_seconds, starved / len(verdicts), worker.rss)
            if worker.verifier not in VERIFIERS:
                self._dispatch()

    def _requeue(self, batch: deque[Job], worker: Worker, lost: WorkerLost) -> None:
        """Put the tasks without a verdict back into the queue, except the cause if it has no attempts left.

        The cause is the task that was being judged. Of several calls at the same time it is not known which one it was,
        so each is judged alone.
        """
        if worker.calls > 1 and len(batch) > 1:
            for job in batch:
                job.alone = True
        elif cause := (batch[0] if worker.calls > 1 else lost.cause):
            cause.crashes += 1
            if lost.status == "timeout" or cause.crashes >= (TRIES_IF_KILLED if lost.killed else TRIES):
                reason = lost.reason if lost.status == "timeout" else f"{lost.reason}, {cause.crashes} times"
                reward = None if lost.status == "grader_error" else 0.0
                batch.remove(cause)
                cause.resolve(
                    Verdict(reward=reward, status=lost.status, reason=reason, seconds=lost.seconds, **worker.origin())
                )
        self._waiting[worker.verifier].extendleft(reversed(batch))
        batch.clear()

    def _fail(self, batch: deque[Job], reason: str) -> None:
        """Return a grader_error for every waiting task of a verifier whose worker cannot start."""
        jobs = self._waiting[batch[0].task.verifier]
        for job in (*batch, *jobs):
            job.resolve(grader_error(reason))
        batch.clear()
        jobs.clear()
