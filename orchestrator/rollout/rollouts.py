"""Turn prompts into graded groups, over any number of generators and graders."""

import asyncio
import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import numpy as np

from actors.contracts import Finished, GenerationJob, Generator, Grader, GradeTask
from configs.rewards import ANSWER_REWARD, RewardConfig, with_answer
from orchestrator.rollout.rewards import combined
from rewards.registry import VERIFIERS
from trajectories.trajectory import Group, Prompt, Trajectory, domain

POLL_S = 1.0
"""Seconds that one `Generator.collect` waits for the next answer."""


def answer_seed(run_seed: int, prompt_key: str, sample_index: int) -> int:
    """Return the seed of one answer, 31 bits (the range of every engine), a function of the arguments alone."""
    digest = hashlib.blake2b(f"{run_seed}/{prompt_key}/{sample_index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % 2**31


@dataclass(slots=True)
class _Pending:
    """A group that is being generated or graded."""

    prompt: Prompt
    size: int
    """Answers of the whole group."""
    generator: int
    """Index of the generator."""
    done: asyncio.Future[Group]
    trajectories: list[Trajectory] = field(default_factory=list)
    """Answers that were generated, graded or not."""


class Rollouts:
    """Submits whole groups to the generator with the fewest pending answers, and every finished answer to a grader.

    If a role fails, or a generator with work finishes no answer for `timeout_s`, every pending group fails. Use as an
    async context manager.

    Args:
        rewards: further rewards of every answer (`objective.rewards`).
    """

    def __init__(
        self,
        generators: Sequence[Generator],
        graders: Sequence[Grader],
        timeout_s: float,
        rewards: Mapping[str, RewardConfig] | None = None,
    ) -> None:
        self.generators, self.graders, self.timeout_s = list(generators), list(graders), timeout_s
        self._rewards = with_answer(rewards) if rewards else {}
        self._pending: dict[str, _Pending] = {}
        self._has_work = [asyncio.Event() for _ in generators]
        self._last_finish = [0.0 for _ in generators]
        self._pollers: list[asyncio.Task[None]] = []
        self._grading: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._next_grader = 0

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
        """Start one group for each prompt and its job.

        Returns:
            One future per prompt, of its graded group with the answers in the order of their seeds.
        """
        if self._failure is not None:
            raise self._failure
        assigned: list[list[GenerationJob]] = [[] for _ in self.generators]
        load = [sum(p.size for p in self._pending.values() if p.generator == i) for i in range(len(self.generators))]
        futures = []
        for prompt, job in zip(prompts, jobs, strict=True):
            assert job.key not in self._pending, f"{job.key} is already in flight"
            target = load.index(min(load))
            load[target] += len(job.seeds)
            assigned[target].append(job)
            pending = _Pending(prompt, len(job.seeds), target, asyncio.get_running_loop().create_future())
            self._pending[job.key] = pending
            futures.append(pending.done)
        for i, own_jobs in enumerate(assigned):
            if own_jobs:
                if not self._has_work[i].is_set():
                    self._last_finish[i] = time.monotonic()
                try:
                    await self.generators[i].submit(own_jobs)
                except Exception as error:
                    self._fail(error)
                    raise
                self._has_work[i].set()
        return futures

    async def run(self, prompts: Sequence[Prompt], jobs: Sequence[GenerationJob]) -> list[Group]:
        """Generate and grade groups of all prompts, and return them in the order of the prompts."""
        return list(await asyncio.gather(*await self.submit(prompts, jobs)))

    async def _poll(self, i: int) -> None:
        try:
            while True:
                await self._has_work[i].wait()
                finished = await self.generators[i].collect(POLL_S)
                now = time.monotonic()
                if finished:
                    self._last_finish[i] = now
                    self._start_grading([f for f in finished if f.key in self._pending])
                elif now - self._last_finish[i] > self.timeout_s:
                    raise RuntimeError(f"generator {i} finished no answer for {self.timeout_s:.0f} s with work to do")
                if not any(p.generator == i and len(p.trajectories) < p.size for p in self._pending.values()):
                    self._has_work[i].clear()
        except Exception as error:  # whatever a role raises fails the groups
            self._fail(error)

    def _start_grading(self, finished: Sequence[Finished]) -> None:
        """Store the answers, so that grading time does not count for the generator's timeout, and grade them."""
        for f in finished:
            self._pending[f.key].trajectories.append(f.trajectory)
        task = asyncio.create_task(self._grade(finished, [self._tasks(f) for f in finished]))
        self._grading.add(task)
        task.add_done_callback(self._grading.discard)

    async def _grade(self, finished: Sequence[Finished], tasks: Sequence[Mapping[str, GradeTask]]) -> None:
        try:
            grader = self.graders[self._next_grader % len(self.graders)]
            self._next_grader += 1
            grades = await grader.grade([task for of_answer in tasks for task in of_answer.values()])
            missing = {task.key for of_answer in tasks for task in of_answer.values()} - grades.keys()
            assert not missing, f"the grader returned no grade for {sorted(missing)[:3]}"
            for f, of_answer in zip(finished, tasks, strict=True):
                if f.key in self._pending:  # otherwise its group failed during grading
                    parts = {name: grades[task.key] for name, task in of_answer.items()}
                    grade = combined(parts, self._rewards) if self._rewards else parts[ANSWER_REWARD]
                    self._complete(f.key, replace(f.trajectory, grade=grade))
        except Exception as error:
            self._fail(error)

    def _tasks(self, finished: Finished) -> dict[str, GradeTask]:
        """Return the tasks of one answer by the name of the reward."""
        prompt, key = self._pending[finished.key].prompt, f"{finished.key}#{finished.trajectory.sample_index}"
        first = GradeTask(
            key=key,
            verifier=prompt.verifier,
            problem=prompt.problem,
            answer=finished.trajectory.text,
            context=_context(prompt, prompt.verifier, finished.trajectory),
        )
        others = {
            name: replace(
                first,
                key=f"{key}/{name}",
                verifier=reward.verifier,
                context=_context(prompt, reward.verifier, finished.trajectory),
            )
            for name, reward in self._rewards.items()
            if name != ANSWER_REWARD
        }
        return {ANSWER_REWARD: first, **others}

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
                pending.done.exception()  # marks it as retrieved; asyncio warns of every error that is not
        self._pending.clear()


def _context(prompt: Prompt, verifier: str, trajectory: Trajectory) -> dict[str, Any]:
    """Return what a user verifier may be told besides answer and problem; nothing for a built-in one."""
    if verifier in VERIFIERS:
        return {}
    return {
        "prompt": prompt.text,
        "messages": list(prompt.messages),
        "completion_ids": trajectory.tokens[trajectory.mask].tolist(),
        "step": trajectory.last_version,
        "domain": domain(prompt.id),
    }


def jobs_for(
    prompts: Iterable[Prompt],
    tokens: Iterable[Sequence[int]],
    *,
    purpose: str,
    run_seed: int,
    answers: int,
    temperature: float,
    max_new_tokens: int,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    stop: Sequence[str] = (),
) -> list[GenerationJob]:
    """Return one job per prompt.

    Args:
        tokens: token ids of each prompt.
        purpose: "train", "heldout", "presample", ...; part of the job's key and seeds, so that the jobs of one prompt
            for different purposes differ.
        answers: answers per prompt.
        stop: texts that end an answer.
    """
    return [
        GenerationJob(
            key=f"{purpose}/{prompt.position}",
            prompt_id=prompt.id,
            prompt_tokens=np.asarray(row, dtype=np.int32),
            seeds=tuple(answer_seed(run_seed, f"{purpose}/{prompt.position}", i) for i in range(answers)),
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            stop=tuple(stop),
        )
        for prompt, row in zip(prompts, tokens, strict=True)
    ]
