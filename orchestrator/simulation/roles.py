"""Generators and graders that take virtual time and compute nothing.

A simulated answer has one token, whose id is the number of tokens that it stands for; so has a simulated prompt.
"""

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np

from actors.contracts import GenerationJob, GradeTask, WeightsInfo
from actors.finished import EngineLoad, Finished
from orchestrator.simulation.cores import Cores
from orchestrator.simulation.costs import EngineCosts
from trajectories.trajectory import Grade, Group, Trajectory

EARLY = 1e-6
"""Tokens: an answer that lacks fewer is finished, in spite of rounding."""

MOST_TOKENS = 1e15
"""What an engine with an unlimited key-value cache reports as free."""


def tokens_of(trajectory: Trajectory) -> int:
    """Return the tokens that a simulated trajectory stands for, prompt included."""
    return int(trajectory.tokens.sum())


@dataclass(slots=True, eq=False)
class _Answer:
    """One answer in an engine."""

    job: GenerationJob
    index: int
    length: int
    done: float = 0.0
    """Tokens that it had when it was last admitted or preempted."""
    ends_at: float = 0.0
    """Count of decoding steps at which it is finished."""
    version: int = -1
    """Version of the weights at its first admission; -1 before it."""
    running: bool = False
    submission: int = 0
    """Number of the `submit` that it came with."""

    @property
    def prompt(self) -> int:
        return int(self.job.prompt_tokens.sum())


class SimulatedGenerator:
    """A continuously batching engine in virtual time.

    Waiting answers are admitted while there is room in the batch and in the key-value cache. When the cache is full,
    the answer that was admitted last is preempted: it waits, and its tokens are computed again at its next admission.

    Args:
        length: tokens of an answer, from its seed.
        cores: on which it computes. None: on a device of its own.
    """

    def __init__(self, costs: EngineCosts, length: Callable[[int], int], cores: Cores | None = None) -> None:
        self.costs, self.length, self.version = costs, length, 0
        self.cores = cores or Cores()
        self.preemptions = 0
        self.busy_s = 0.0
        self.answer_s = 0.0
        """Integral over time of the number of running answers; divided by `busy_s`, the mean batch."""
        self._waiting: deque[_Answer] = deque()
        self._order: list[_Answer] = []
        """Running answers, in the order of their admission."""
        self._by_end: list[tuple[float, int, _Answer]] = []
        self._submissions = 0
        self._count, self._steps, self._cached, self._stall = 0, 0.0, 0.0, 0.0
        self._prefilled: set[str] = set()
        self._finished: list[_Answer] = []
        self._some_finished, self._changed, self._awake = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._awake.set()
        self._task = asyncio.create_task(self._run())

    async def submit(self, jobs: Sequence[GenerationJob]) -> None:
        self._submissions += 1
        for job in jobs:
            self._waiting += [
                _Answer(job, i, self.length(seed), submission=self._submissions) for i, seed in enumerate(job.seeds)
            ]
        if self._has_room:
            self._changed.set()

    async def collect(self, wait_s: float) -> Finished:
        if not self._finished:
            self._some_finished.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._some_finished.wait()
        answers, self._finished = self._finished, []
        return self._block(answers)

    def pause(self) -> None:
        """Stop decoding until `resume`, as for new weights or the learner's turn on a shared GPU."""
        self._awake.clear()
        self._changed.set()

    def resume(self, version: int) -> None:
        """Go on decoding, with the weights of `version`."""
        self.version = version
        self._awake.set()

    async def init_weights(self, info: WeightsInfo) -> None:
        raise NotImplementedError

    async def update_weights(self, weights: Any) -> int:
        raise NotImplementedError

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            await self._awake.wait()
            self._changed.clear()
            self._admit()
            if not self._order:
                await self._changed.wait()
                continue
            steps = self._until_event()
            seconds = self._stall + self._seconds(steps)
            computed = await self.cores.work(seconds, self._changed)
            self._advance(computed, steps if computed == seconds else None)
            self._finish()
            self._make_room()

    @property
    def _has_room(self) -> bool:
        return len(self._order) < self.costs.max_sequences

    def _admit(self) -> None:
        while self._waiting and self._has_room:
            answer = self._waiting[0]
            needed = answer.prompt + answer.done
            if self._order and self._cached + needed + len(self._order) > self.costs.kv_tokens:
                break
            if self._order and self.costs.one_submission and answer.submission != self._order[0].submission:
                break
            self._waiting.popleft()
            computed = answer.done  # Above 0 after a preemption: its cache is lost.
            if answer.job.key not in self._prefilled or computed:
                self._prefilled.add(answer.job.key)
                computed += answer.prompt
            self._stall += computed * self.costs.prefill_s
            answer.version = self.version if answer.version < 0 else answer.version
            answer.running, answer.ends_at = True, self._steps + answer.length - answer.done
            self._order.append(answer)
            self._count += 1
            heapq.heappush(self._by_end, (answer.ends_at, self._count, answer))
            self._cached += needed

    def _until_event(self) -> float:
        """Return the decoding steps until an answer is finished or the cache is full."""
        while not self._by_end[0][2].running:
            heapq.heappop(self._by_end)
        finish = self._by_end[0][0] - self._steps
        full = (self.costs.kv_tokens - self._cached) / len(self._order) if len(self._order) > 1 else math.inf
        return max(min(finish, full), 0.0)

    def _seconds(self, steps: float) -> float:
        """Return the seconds of so many decoding steps of the running answers. The cache grows linearly meanwhile."""
        running = len(self._order)
        cached = self._cached + running * steps / 2
        return steps * (self.costs.step_s(running) + self.costs.kv_s * cached)

    def _advance(self, seconds: float, steps: float | None) -> None:
        """Decode for so many seconds, which are `steps` steps if they are known."""
        running = len(self._order)
        self.busy_s += seconds
        self.answer_s += seconds * running
        waited = min(self._stall, seconds)
        self._stall -= waited
        if steps is None:
            slow, quick = self.costs.kv_s * running / 2, self.costs.step_s(running) + self.costs.kv_s * self._cached
            left = seconds - waited
            # The root of slow * steps^2 + quick * steps = left, in a form without cancellation.
            steps = 2 * left / (quick + math.sqrt(quick**2 + 4 * slow * left)) if left else 0.0
        self._steps += steps
        self._cached += steps * running

    def _finish(self) -> None:
        found = False
        while self._by_end and self._by_end[0][0] <= self._steps + EARLY:
            answer = heapq.heappop(self._by_end)[2]
            if answer.running and answer.ends_at <= self._steps + EARLY:
                answer.running, found = False, True
                self._cached -= answer.prompt + answer.length
                self._finished.append(answer)
        if found:
            self._order = [answer for answer in self._order if answer.running]
            self._some_finished.set()

    def _make_room(self) -> None:
        while len(self._order) > 1 and self._cached + len(self._order) > self.costs.kv_tokens:
            answer = self._order.pop()
            answer.running, answer.done = False, answer.length - (answer.ends_at - self._steps)
            self._cached -= answer.prompt + answer.done
            self._waiting.appendleft(answer)
            self.preemptions += 1

    def _block(self, answers: Sequence[_Answer]) -> Finished:
        count = len(answers)
        return Finished(
            keys=[answer.job.key for answer in answers],
            sample_index=np.array([answer.index for answer in answers], np.int32),
            tokens=np.array([answer.length for answer in answers], np.int32),
            logps=np.zeros(count, np.float32),
            ends=np.arange(1, count + 1),
            first_version=np.array([answer.version for answer in answers], np.int32),
            last_version=np.full(count, self.version, np.int32),
            stopped=np.ones(count, np.bool_),
            texts=[""] * count,
            load=self._load(),
        )

    def _load(self) -> EngineLoad:
        """Return the load of this moment; a step in progress is counted at its end."""
        free = self.costs.kv_tokens - self._cached
        return EngineLoad(
            waiting=len(self._waiting),
            running=len(self._order),
            free_sequences=self.costs.max_sequences - len(self._order),
            free_kv_tokens=int(min(max(free, 0.0), MOST_TOKENS)),
            tokens=int(self.answer_s),
        )


class SimulatedGrader:
    """A pool of workers that takes the same time for every answer. Half of the answers are right."""

    def __init__(self, seconds: float, workers: float, cores: Cores | None = None) -> None:
        self.seconds, self.workers = seconds, workers
        self.cores, self._turn = cores or Cores(), asyncio.Lock()

    async def prove(self, verifiers: Sequence[str]) -> dict[str, int]:
        raise NotImplementedError

    async def grade(self, tasks: Sequence[GradeTask]) -> dict[str, Grade]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        if self.seconds:
            async with self._turn:
                await self.cores.finish(len(tasks) * self.seconds / self.workers, self.workers)
            await asyncio.sleep(began + self.seconds - loop.time())  # one answer takes one worker so long
        return {task.key: Grade(reward=float(crc32(task.key.encode()) % 2), status="correct") for task in tasks}

    async def stats(self) -> dict[str, float]:
        return {}

    async def close(self) -> None:
        pass


class SimulatedReference:
    """Reference actors that score complete groups one after another.

    Args:
        seconds: those of a group, from the tokens of its trajectories.
    """

    def __init__(self, seconds: Callable[[Sequence[int]], float]) -> None:
        self.seconds, self._turn = seconds, asyncio.Lock()

    async def score_group(self, group: Group) -> Group:
        """Return the group after the time that its scores take."""
        async with self._turn:
            await asyncio.sleep(self.seconds([tokens_of(t) for t in group.trajectories]))
        return group
