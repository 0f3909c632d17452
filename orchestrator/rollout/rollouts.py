"""Rollouts: prompts in, graded groups out, over any number of generators and graders."""

import asyncio
import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

import numpy as np

from actors.contracts import Finished, GenerationJob, Generator, Grader, GradeTask
from trajectories.trajectory import Group, Prompt, Trajectory

POLL_S = 1.0
"""Seconds one call to a generator waits for the next answer."""


def answer_seed(run_seed: int, prompt_key: str, sample_index: int) -> int:
    """Seed of one answer, from its place in the run and from nothing else; 31 bits, which every engine takes."""
    digest = hashlib.blake2b(f"{run_seed}/{prompt_key}/{sample_index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % 2**31


@dataclass(slots=True)
class _Pending:
    """One group on its way."""

    prompt: Prompt
    size: int
    generator: int
    done: asyncio.Future[Group]
    trajectories: list[Trajectory] = field(default_factory=list)


class Rollouts:
    """Sends whole groups to the least busy generator and every answer to a grader the moment it ended.

    A failure of a role, or a generator that finishes nothing for `timeout_s` while it has work, fails every group on
    its way. Use as an async context manager.
    """

    def __init__(self, generators: Sequence[Generator], graders: Sequence[Grader], timeout_s: float) -> None:
        self.generators, self.graders, self.timeout_s = list(generators), list(graders), timeout_s
        self._pending: dict[str, _Pending] = {}
        self._work = [asyncio.Event() for _ in generators]
        self._last_finish = [0.0 for _ in generators]
        self._pollers: list[asyncio.Task[None]] = []
        self._grading: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._turn = 0

    async def __aenter__(self) -> "Rollouts":
        self._pollers = [asyncio.create_task(self._poll(i)) for i in range(len(self.generators))]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [*self._pollers, *self._grading]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for pending in self._pending.values():
            pending.done.cancel()

    async def submit(self, prompts: Sequence[Prompt], jobs: Sequence[GenerationJob]) -> list[asyncio.Future[Group]]:
        """Start one group for each prompt and its job; the futures resolve to graded groups, answers in order."""
        if self._failure is not None:
            raise self._failure
        shares: list[list[GenerationJob]] = [[] for _ in self.generators]
        load = [sum(p.size for p in self._pending.values() if p.generator == i) for i in range(len(self.generators))]
        futures = []
        for prompt, job in zip(prompts, jobs, strict=True):
            assert job.key not in self._pending, f"{job.key} is already in flight"
            target = load.index(min(load))
            load[target] += len(job.seeds)
            shares[target].append(job)
            pending = _Pending(prompt, len(job.seeds), target, asyncio.get_running_loop().create_future())
            self._pending[job.key] = pending
            futures.append(pending.done)
        for i, share in enumerate(shares):
            if share:
                if not self._work[i].is_set():
                    self._last_finish[i] = time.monotonic()
                try:
                    await self.generators[i].submit(share)
                except Exception as error:
                    self._fail(error)
                    raise
                self._work[i].set()
        return futures

    async def run(self, prompts: Sequence[Prompt], jobs: Sequence[GenerationJob]) -> list[Group]:
        """Graded groups of all prompts, in their order."""
        return list(await asyncio.gather(*await self.submit(prompts, jobs)))

    async def _poll(self, i: int) -> None:
        try:
            while True:
                await self._work[i].wait()
                finished = await self.generators[i].collect(POLL_S)
                now = time.monotonic()
                if finished:
                    self._last_finish[i] = now
                    self._accept([f for f in finished if f.key in self._pending])
                elif now - self._last_finish[i] > self.timeout_s:
                    raise RuntimeError(f"generator {i} finished no answer for {self.timeout_s:.0f} s with work to do")
                if not any(p.generator == i and len(p.trajectories) < p.size for p in self._pending.values()):
                    self._work[i].clear()
        except Exception as error:  # the boundary where a role's failure becomes the failure of its groups
            self._fail(error)

    def _accept(self, finished: Sequence[Finished]) -> None:
        """Note that the answers are here, so that their generator is not waited for, and send them to a grader."""
        for f in finished:
            self._pending[f.key].trajectories.append(f.trajectory)
        task = asyncio.create_task(self._grade(finished, [self._task(f) for f in finished]))
        self._grading.add(task)
        task.add_done_callback(self._grading.discard)

    async def _grade(self, finished: Sequence[Finished], tasks: Sequence[GradeTask]) -> None:
        try:
            grader = self.graders[self._turn % len(self.graders)]
            self._turn += 1
            grades = await grader.grade(tasks)
            missing = {task.key for task in tasks} - grades.keys()
            assert not missing, f"the grader left out {sorted(missing)[:3]}"
            for f, task in zip(finished, tasks, strict=True):
                if f.key in self._pending:  # else its group failed while it was graded
                    self._complete(f.key, replace(f.trajectory, grade=grades[task.key]))
        except Exception as error:
            self._fail(error)

    def _task(self, finished: Finished) -> GradeTask:
        prompt = self._pending[finished.key].prompt
        return GradeTask(
            key=f"{finished.key}#{finished.trajectory.sample_index}",
            verifier=prompt.verifier,
            problem=prompt.problem,
            answer=finished.trajectory.text,
        )

    def _complete(self, key: str, graded: Trajectory) -> None:
        pending = self._pending[key]
        index = next(i for i, t in enumerate(pending.trajectories) if t.sample_index == graded.sample_index)
        pending.trajectories[index] = graded
        if len(pending.trajectories) == pending.size and all(t.grade is not None for t in pending.trajectories):
            ordered = tuple(sorted(pending.trajectories, key=lambda t: t.sample_index))
            del self._pending[key]
            if not pending.done.done():
                pending.done.set_result(Group(prompt=pending.prompt, trajectories=ordered))

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        for pending in self._pending.values():
            if not pending.done.done():
                pending.done.set_exception(error)
                pending.done.exception()  # as seen: asyncio would print one complaint for each group nobody awaits
        self._pending.clear()


def jobs_for(
    prompts: Iterable[Prompt],
    tokens: Iterable[Sequence[int]],
    *,
    purpose: str,
    run_seed: int,
    answers: int,
    temperature: float,
    max_new_tokens: int,
) -> list[GenerationJob]:
    """One job per prompt. `purpose` ("train", "heldout/20") keeps jobs of the same prompt apart, and their seeds."""
    return [
        GenerationJob(
            key=f"{purpose}/{prompt.position}",
            prompt_id=prompt.id,
            prompt_tokens=np.asarray(row, dtype=np.int32),
            seeds=tuple(answer_seed(run_seed, f"{purpose}/{prompt.position}", i) for i in range(answers)),
            temperature=temperature,
            max_new_tokens=max_new_tokens,
        )
        for prompt, row in zip(prompts, tokens, strict=True)
    ]
