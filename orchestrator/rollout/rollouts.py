"""Turn prompts into graded groups, over any number of generators and graders."""

import asyncio
import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np

from actors.contracts import GenerationJob, Generator, Grader, GradeTask
from actors.finished import Finished
from configs.rewards import ANSWER_REWARD, RewardConfig, with_answer
from orchestrator.rollout.answers import trajectories
from orchestrator.rollout.rewards import combined
from rewards.registry import VERIFIERS
from trajectories.trajectory import Group, Prompt, Trajectory, domain

POLL_S = 1.0
"""Seconds that one `Generator.collect` waits for the next answer."""


def answer_seed(run_seed: int, prompt_key: str, sample_index: int) -> int:
    """Return the seed of one answer, 31 bits (the range of every engine), a function of the arguments alone."""
    return answer_seeds(run_seed, prompt_key, [sample_index])[0]


def answer_seeds(run_seed: int, prompt_key: str, sample_indices: Iterable[int]) -> tuple[int, ...]:
    """Return `answer_seed` of several answers to one prompt."""
    of_prompt = hashlib.blake2b(f"{run_seed}/{prompt_key}/".encode(), digest_size=8)
    seeds = []
    for index in sample_indices:
        digest = of_prompt.copy()
        digest.update(b"%d" % index)
        seeds.append(int.from_bytes(digest.digest()[:4], "little") % 2**31)
    return tuple(seeds)


@dataclass(slots=True)
class _Pending:
    """A group that is being generated or graded."""

    prompt: Prompt
    job: GenerationJob
    generator: int
    """Index of the generator."""
    done: asyncio.Future[Group]
    graded: list[Trajectory | None]
    """The graded answers by sample index; None for the others."""
    ungraded: int
    """Number of answers without a grade."""


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
        self._load = [0 for _ in generators]
        """Answers of the pending groups of each generator."""
        self._decoding = [0 for _ in generators]
        """Answers that each generator has not finished."""
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
        futures = []
        for prompt, job in zip(prompts, jobs, strict=True):
            assert job.key not in self._pending, f"{job.key} is already in flight"
            target, size = self._load.index(min(self._load)), len(job.seeds)
            self._load[target] += size
            self._decoding[target] += size
            assigned[target].append(job)
            done = asyncio.get_running_loop().create_future()
            self._pending[job.key] = _Pending(prompt, job, target, done, [None] * size, size)
            futures.append(done)
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
                if len(finished):
                    self._last_finish[i] = now
                    self._decoding[i] -= len(finished)
                    self._start_grading(finished)
                elif now - self._last_finish[i] > self.timeout_s:
                    raise RuntimeError(f"generator {i} finished no answer for {self.timeout_s:.0f} s with work to do")
                if not self._decoding[i]:
                    self._has_work[i].clear()
        except Exception as error:  # whatever a role raises fails the groups
            self._fail(error)

    def _start_grading(self, finished: Finished) -> None:
        """Grade the answers in a task of its own, so that grading time does not count for the generator's timeout."""
        jobs = {key: self._pending[key].job for key in finished.keys}
        task = asyncio.create_task(self._grade(finished.keys, trajectories(finished, jobs)))
        self._grading.add(task)
        task.add_done_callback(self._grading.discard)

    async def _grade(self, keys: Sequence[str], answers: Sequence[Trajectory]) -> None:
        """Grade answers, and store their grades.

        Args:
            keys: key of the job of each answer.
        """
        try:
            grader = self.graders[self._next_grader % len(self.graders)]
            self._next_grader += 1
            tasks = [self._tasks(self._pending[key].prompt, key, t) for key, t in zip(keys, answers, strict=True)]
            grades = await grader.grade([task for of_answer in tasks for task in of_answer.values()])
            for key, answer, of_answer in zip(keys, answers, tasks, strict=True):
                missing = [task.key for task in of_answer.values() if task.key not in grades]
                assert not missing, f"the grader returned no grade for {missing}"
                if key in self._pending:  # otherwise its group failed during grading
                    parts = {name: grades[task.key] for name, task in of_answer.items()}
                    grade = combined(parts, self._rewards) if self._rewards else parts[ANSWER_REWARD]
                    self._complete(key, replace(answer, grade=grade))
        except Exception as error:
            self._fail(error)

    def _tasks(self, prompt: Prompt, job_key: str, answer: Trajectory) -> dict[str, GradeTask]:
        """Return the tasks of one answer by the name of the reward."""
        key = f"{job_key}#{answer.sample_index}"
        verifiers = {ANSWER_REWARD: (key, prompt.verifier)} | {
            name: (f"{key}/{name}", reward.verifier) for name, reward in self._rewards.items() if reward.verifier
        }
        return {
            name: GradeTask(
                key=own_key,
                verifier=verifier,
                problem=prompt.problem,
                answer=answer.text,
                context=_context(prompt, verifier, answer),
            )
            for name, (own_key, verifier) in verifiers.items()
        }

    def _complete(self, key: str, graded: Trajectory) -> None:
        pending = self._pending[key]
        assert pending.graded[graded.sample_index] is None, f"{key}: answer {graded.sample_index} came twice"
        pending.graded[graded.sample_index] = graded
        pending.ungraded -= 1
        if not pending.ungraded:
            del self._pending[key]
            self._load[pending.generator] -= len(pending.graded)
            if not pending.done.done():
                answers = tuple(answer for answer in pending.graded if answer is not None)
                pending.done.set_result(Group(prompt=pending.prompt, trajectories=answers))

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
    mixture: float = 0.0,
) -> list[GenerationJob]:
    """Return one job per prompt.

    Args:
        tokens: token ids of each prompt.
        purpose: "train", "heldout", "presample", ...; part of the job's key and seeds, so that the jobs of one prompt
            for different purposes differ.
        answers: answers per prompt.
        stop: texts that end an answer.
        mixture: share of the generators' second policy in the distribution of every token.
    """
    return [
        GenerationJob(
            key=f"{purpose}/{prompt.position}",
            prompt_id=prompt.id,
            prompt_tokens=np.asarray(row, dtype=np.int32),
            seeds=answer_seeds(run_seed, f"{purpose}/{prompt.position}", range(answers)),
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            stop=tuple(stop),
            mixture=mixture,
        )
        for prompt, row in zip(prompts, tokens, strict=True)
    ]
