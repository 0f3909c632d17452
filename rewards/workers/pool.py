"""A pool of worker processes. Each is killed when an answer exceeds its deadline.

The pool keeps working when a verifier hangs, crashes, prints, leaks memory, ends its process or starts others. A worker
of a built-in verifier is also confined (`rewards/sandbox/confinement.py`), and programs in answers run in boxes
(`rewards/sandbox/box.py`). A user verifier is trusted: it has the user's rights, files and network.

A worker judges one answer at a time, that of an async verifier many. The pool measures the deadlines. When a worker
dies, the first task without a verdict is the cause, and the tasks behind it go back to the queue. Of several calls at a
time each may be the cause, so all go back, and each is judged with no other call beside it. Time in the queue does not
count towards a deadline.
"""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rewards.registry import NO_CONTEXT, VERIFIERS, deadline_s
from rewards.sandbox.process_tree import starved_seconds
from rewards.verdict import Verdict, grader_error, wrong
from rewards.workers.concurrent_calls import ConcurrentCalls
from rewards.workers.demand import MOST, Demand, machine_cores
from rewards.workers.job import Job
from rewards.workers.process import StartFailed, Worker, WorkerLost
from rewards.workers.worker import FRAME_LIMIT, pack
from rewards.workers.worker_set import TRIES_IF_KILLED, WorkerSet

BATCH = 32
"""Tasks sent to one worker of a built-in verifier at a time."""
LONG_S = 5.0
"""Tasks with a longer deadline are sent one by one: in a batch they would wait while another worker idles."""
IDLE_WORKERS = 4
"""Workers that are kept idle for each one that may be busy."""
WAITING_LIMIT = 1_024
"""Tasks held in memory as frames. Further callers wait before their frame is made."""
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
        self._capacity = asyncio.Semaphore(WAITING_LIMIT)
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

    @property
    def respawns(self) -> int:
        """Workers replaced since the start."""
        return self._workers.respawns

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
            if self._failure is not None:
                raise self._failure
            job = Job(verifier, frame, limit, asyncio.get_running_loop().create_future())
            self._waiting[verifier].append(job)
            self._dispatch()
            return await job.future

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

        A batch has at most BATCH tasks, and at most the waiting tasks divided by the workers, so that no worker idles.
        Tasks of a user verifier are taken one by one: they may take long, or run at the same time.
        """
        jobs = self._waiting[verifier]
        size = -(-len(jobs) // self._limit(verifier))
        size = 1 if verifier not in VERIFIERS or jobs[0].timeout_s > LONG_S else min(size, BATCH)
        return deque(jobs.popleft() for _ in range(size))

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
        """Send the batch and read its verdicts one by one. A task with a verdict is removed from the batch."""
        worker.writer.write(b"".join(job.frame for job in batch))
        while batch:
            if worker.verifier in VERIFIERS:
                verdict = await worker.verdict(batch[0].timeout_s)
            else:
                starved = starved_seconds(worker.pid)
                verdict = await worker.verdict(max(batch[0].timeout_s, self._first_limit_s(worker)))
                self._measure(worker, verdict, starved_seconds(worker.pid) - starved)
            batch.popleft().resolve(verdict)

    async def _judge_many(self, worker: Worker, batch: deque[Job]) -> None:
        """Send the batch and, while it is judged, further tasks of the verifier. Those without a verdict are in the
        batch at the end."""
        calls = ConcurrentCalls(worker, self._first_limit_s(worker))

        def done(job: Job, verdict: Verdict) -> None:
            self._measure(worker, verdict)
            job.resolve(verdict)
            self._dispatch()

        calls.send(batch.popleft())
        assert not batch, "tasks of a user verifier are taken one by one"
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

    def _measure(self, worker: Worker, verdict: Verdict, starved: float = 0.0) -> None:
        """Note the time that a user verifier took. More of its workers may be busy then."""
        demand = self._demand[worker.verifier]
        if worker.judged == 1:
            demand.add_first(verdict.seconds)
        elif worker.calls == 1:
            demand.add(verdict.seconds, verdict.cpu_seconds, starved, worker.rss())
            self._dispatch()

    def _requeue(self, batch: deque[Job], worker: Worker, lost: WorkerLost) -> None:
        """Put the tasks without a verdict back into the queue, except the first one if it has no attempts left.

        The first one is the task whose check ended the worker; the others only waited behind it. Of several calls at
        the same time it is not known which did, so each is judged alone.
        """
        first = batch[0]
        if worker.calls > 1 and len(batch) > 1:
            for job in batch:
                job.alone = True
        else:
            first.crashes += 1
            if lost.status == "timeout" or first.crashes >= (TRIES_IF_KILLED if lost.killed else TRIES):
                reason = lost.reason if lost.status == "timeout" else f"{lost.reason}, {first.crashes} times"
                verdict = grader_error(reason) if lost.status == "grader_error" else wrong(reason, lost.status)
                batch.popleft().resolve(worker.add_origin(replace(verdict, seconds=lost.seconds)))
        self._waiting[worker.verifier].extendleft(reversed(batch))
        batch.clear()

    def _fail(self, batch: deque[Job], reason: str) -> None:
        """Return a grader_error for every waiting task of a verifier whose worker cannot start."""
        jobs = self._waiting[batch[0].verifier]
        for job in (*batch, *jobs):
            job.resolve(grader_error(reason))
        batch.clear()
        jobs.clear()
