"""Generators and graders with the roles' contracts whose answers, grades and errors a test sets."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from actors.contracts import GenerationJob, GradeTask, WeightsInfo
from actors.finished import EngineLoad, Finished
from trajectories.trajectory import Grade, Prompt


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a test's body, at most 15 seconds."""
    asyncio.run(asyncio.wait_for(coroutine, 15))


def prompt(position: int, text: str = "1,2=3:") -> Prompt:
    return Prompt(id=f"toy/{position}", position=position, text=text, verifier="toy", problem={"place": position})


class ScriptedGenerator:
    """Keeps its jobs until the test finishes their answers, or finishes each group at once, last answer first.

    An answer's text is "key/index"; its weight version is the one at which its job was submitted.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.at_once, self.version = at_once, 0
        self.load = EngineLoad()
        """What `collect` reports. Every call adds a token, unless it is `silent`."""
        self.silent = False
        self.error: Exception | None = None
        """Raised by `collect`."""
        self.submit_error: Exception | None = None
        """Raised by `submit`."""
        self.submissions: list[list[GenerationJob]] = []
        self.collecting = 0
        self._jobs: dict[str, tuple[GenerationJob, int]] = {}
        self._finished: list[tuple[GenerationJob, int, int]] = []
        self._ready = asyncio.Event()

    @property
    def keys(self) -> list[str]:
        return [job.key for jobs in self.submissions for job in jobs]

    async def submit(self, jobs: Sequence[GenerationJob]) -> None:
        if self.submit_error is not None:
            raise self.submit_error
        self.submissions.append(list(jobs))
        self._jobs |= {job.key: (job, self.version) for job in jobs}
        if self.at_once:
            for job in reversed(jobs):
                self.finish(job.key, *reversed(range(len(job.seeds))))

    def finish(self, key: str, *indices: int) -> None:
        job, version = self._jobs[key]
        self._finished += [(job, index, version) for index in indices]
        self._ready.set()

    async def collect(self, wait_s: float) -> Finished:
        self.collecting += 1
        with suppress(TimeoutError):
            async with asyncio.timeout(min(wait_s, 0.01)):
                await self._ready.wait()
        if self.error is not None:
            raise self.error
        finished, self._finished = self._finished, []
        self._ready.clear()
        if not self.silent:
            self.load = replace(self.load, tokens=self.load.tokens + 1)
        return replace(_block(finished), load=self.load)

    async def init_weights(self, info: WeightsInfo) -> None:
        raise NotImplementedError

    async def update_weights(self, weights: Any) -> int:
        raise NotImplementedError

    async def close(self) -> None:
        pass


def _block(answers: Sequence[tuple[GenerationJob, int, int]]) -> Finished:
    """Answers of one token; each is a job, a sample index and a weight version."""
    count = len(answers)
    versions = np.array([version for *_, version in answers], np.int32)
    return Finished(
        keys=[job.key for job, *_ in answers],
        sample_index=np.array([index for _, index, _ in answers], np.int32),
        tokens=np.ones(count, np.int32),
        logps=np.zeros(count, np.float32),
        ends=np.arange(1, count + 1),
        first_version=versions,
        last_version=versions,
        stopped=np.ones(count, np.bool_),
        texts=[f"{job.key}/{index}" for job, index, _ in answers],
    )


class ScriptedGrader:
    """Returns the grade that `judge` computes for each task, in the opposite order."""

    def __init__(self, judge: Callable[[GradeTask], Grade] | None = None) -> None:
        self.judge = judge or (lambda task: Grade(reward=1.0, status="correct", reason=task.answer))
        self.calls: list[list[GradeTask]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def grade(self, tasks: Sequence[GradeTask]) -> dict[str, Grade]:
        self.calls.append(list(tasks))
        await self.open.wait()
        return {task.key: self.judge(task) for task in reversed(tasks)}

    async def stats(self) -> dict[str, float]:
        return {}

    async def close(self) -> None:
        pass
