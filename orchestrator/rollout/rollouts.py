"""Turn prompts into graded groups, over any number of generators and graders."""

import asyncio
import hashlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

import numpy as np

from actors.contracts import GenerationJob, Generator, Grader
from actors.finished import EngineLoad, Finished
from configs.config import Config
from configs.rewards import ANSWER_REWARD, RewardConfig, with_answer
from orchestrator.rollout.answers import trajectories
from orchestrator.rollout.grade_tasks import tasks_of
from orchestrator.rollout.rewards import combined
from orchestrator.rollout.room import Lengths, Room
from trajectories.trajectory import Group, Prompt, Trajectory

POLL_S = 1.0
"""Seconds that one `Generator.collect` waits for the next answer."""
BIND_S = 0.25
"""The same while groups wait for room: `Generator.collect` reports it."""


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
    done: asyncio.Future[Group]
    graded: list[Trajectory | None]
    """The graded answers by sample index; None for the others."""
    ungraded: int
    """Number of answers without a grade."""
    rewards: Mapping[str, RewardConfig]
    generator: int = -1
    """Index of the generator; -1 before the group is bound to one."""


class Rollouts:
    """Binds whole groups to generators, and sends every finished answer to a grader.

    A group is bound to the generator with the fewest pending answers. With `late_binding` only to one that has room,
    and groups wait here until one has. If a role fails, every pending group fails; also if a generator with work
    generates no token for `silence_s`. Use as an async context manager.

    Silence is counted in the seconds that a generator has waited for its own answers, never by the clock of this
    process: while its event loop is blocked, nothing is counted, and tokens generated meanwhile end the silence.

    Args:
        silence_s: longest time without a token, in seconds.
        rewards: further rewards of every answer (`objective.rewards`).
        late_binding: whether groups wait for room (`Room`). Which generator answers which group then depends on timing.
    """

    def __init__(
        self,
        generators: Sequence[Generator],
        graders: Sequence[Grader],
        silence_s: float,
        rewards: Mapping[str, RewardConfig] | None = None,
        *,
        late_binding: bool = False,
    ) -> None:
        self.generators, self.graders, self.silence_s = list(generators), list(graders), silence_s
        self._rewards = with_answer(rewards) if rewards else {}
        self._pending: dict[str, _Pending] = {}
        self._unbound: deque[_Pending] = deque()
        self._rooms = [Room(EngineLoad()) for _ in generators] if late_binding else []  # none before a report
        self._lengths = Lengths()
        self._has_work = [asyncio.Event() for _ in generators]
        self._load = [0 for _ in generators]
        """Answers of the pending groups that are bound to each generator."""
        self._decoding = [0 for _ in generators]
        """Answers that each generator has not finished."""
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

    async def submit(
        self, prompts: Sequence[Prompt], jobs: Sequence[GenerationJob], *, first: bool = False, foreign: bool = False
    ) -> list[asyncio.Future[Group]]:
        """Start one group for each prompt and its job.

        Args:
            first: whether these groups are bound before those that wait for room.
            foreign: whether the prompts are of another task, whose answers have the reward of its verifier alone.

        Returns:
            One future per prompt, of its graded group with the answers in the order of their seeds.
        """
        if self._failure is not None:
            raise self._failure
        added = []
        for prompt, job in zip(prompts, jobs, strict=True):
            assert job.key not in self._pending, f"{job.key} is already in flight"
            size, done = len(job.seeds), asyncio.get_running_loop().create_future()
            self._pending[job.key] = _Pending(prompt, job, done, [None] * size, size, {} if foreign else self._rewards)
            added.append(self._pending[job.key])
        if first:
            self._unbound.extendleft(reversed(added))
        else:
            self._unbound.extend(added)
        try:
            await self._bind()
        except Exception as error:
            self._fail(error)
            raise
        return [pending.done for pending in added]

    async def run(
        self, prompts: Sequence[Prompt], jobs: Sequence[GenerationJob], *, first: bool = False, foreign: bool = False
    ) -> list[Group]:
        """Generate and grade groups of all prompts, and return them in the order of the prompts. Args: as `submit`."""
        return list(await asyncio.gather(*await self.submit(prompts, jobs, first=first, foreign=foreign)))

    async def _bind(self) -> None:
        """Submit the groups that wait, in order, as far as generators have room; those of a generator in one call."""
        assigned: list[list[GenerationJob]] = [[] for _ in self.generators]
        while self._unbound:
            job = self._unbound[0].job
            roomy = [i for i in range(len(self.generators)) if self._has_room(i, job)]
            if not roomy:
                break
            target, size = min(roomy, key=lambda i: self._load[i]), len(job.seeds)
            self._unbound.popleft().generator = target
            self._load[target] += size
            self._decoding[target] += size
            if self._rooms:
                self._rooms[target].fill(job, self._lengths.expected(job))
            assigned[target].append(job)
        for i, jobs in enumerate(assigned):
            if jobs:
                await self.generators[i].submit(jobs)
                self._has_work[i].set()

    def _has_room(self, i: int, job: GenerationJob) -> bool:
        return not self._rooms or not self._decoding[i] or self._rooms[i].holds(job, self._lengths.expected(job))

    async def _poll(self, i: int) -> None:
        silence_s, tokens = 0.0, 0
        try:
            while True:
                if not self._decoding[i]:
                    self._has_work[i].clear()
                    silence_s = 0.0
                await self._has_work[i].wait()
                wait_s = BIND_S if self._unbound else POLL_S
                finished = await self.generators[i].collect(wait_s)
                if self._rooms:
                    self._rooms[i] = Room(finished.load)
                if len(finished) or finished.load.tokens != tokens:
                    silence_s, tokens = 0.0, finished.load.tokens
                else:
                    silence_s += wait_s
                if silence_s > self.silence_s:
                    raise RuntimeError(f"generator {i} generated no token for {self.silence_s:.0f} s with work to do")
                if len(finished):
                    self._decoding[i] -= len(finished)
                    self._lengths.observe(finished)
                    self._start_grading(finished)
                await self._bind()
        except Exception as error:  # whatever a role raises fails the groups
            self._fail(error)

    def _start_grading(self, finished: Finished) -> None:
        """Grade the answers in a task of its own, so that grading time does not delay the next poll."""
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
            prompts = [self._pending[key].prompt for key in keys]
            rewards = [self._pending[key].rewards for key in keys]
            tasks = [tasks_of(*one) for one in zip(prompts, keys, answers, rewards, strict=True)]
            grades = await grader.grade([task for of_answer in tasks for task in of_answer.values()])
            for key, answer, of_answer, own in zip(keys, answers, tasks, rewards, strict=True):
                missing = [task.key for task in of_answer.values() if task.key not in grades]
                assert not missing, f"the grader returned no grade for {missing}"
                if key in self._pending:  # otherwise its group failed during grading
                    parts = {name: grades[task.key] for name, task in of_answer.items()}
                    grade = combined(parts, own) if own else parts[ANSWER_REWARD]
                    self._complete(key, replace(answer, grade=grade))
        except Exception as error:
            self._fail(error)

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
        self._unbound.clear()


def rollouts_for(cfg: Config, generators: Sequence[Generator], graders: Sequence[Grader]) -> Rollouts:
    """Return the rollouts of a run."""
    rewards = cfg.objective.rewards
    return Rollouts(generators, graders, cfg.generator.timeout_s, rewards, late_binding=cfg.binds_late)


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
