"""Answer held-out prompts: any number of them, each of any number of answers, in bounded memory."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from actors.contracts import GenerationJob
from configs.heldout import Decoding
from orchestrator.rollout.jobs import jobs_for
from orchestrator.rollout.rollouts import Rollouts
from trajectories.trajectory import Group, Prompt, Trajectory

IN_FLIGHT = 2_048
"""Answers in progress for each generator. Each holds its tokens, log-probs and text until its prompt is done."""
PART = 128
"""Answers of one job. A prompt with more has several, so that generators share the answers to few prompts."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt, and how it is answered."""

    prompt: Prompt
    tokens: Sequence[int]
    answers: int
    """One at temperature 0, where all answers are equal."""
    decoding: Decoding
    stop: tuple[str, ...] = ()
    purpose: str = "heldout"
    """Part of the seeds of the answers, with the position of the prompt. Every policy and sampling has equal seeds."""
    foreign: bool = False
    """Whether the prompt is of another task than the run's (see `Rollouts.submit`)."""
    place: int = 0
    """Number of the caller's own, by which it knows the question again."""


@dataclass
class _Parts:
    """The answers to one question so far."""

    found: list[Trajectory | None]
    missing: int


async def answered(
    rollouts: Rollouts, questions: Sequence[Question], run_seed: int, in_flight: int = IN_FLIGHT
) -> AsyncIterator[tuple[Question, Group]]:
    """Yield each question with its graded answers when all of them are there, in any order.

    Questions are submitted in order, as many as have at most `in_flight` answers per generator.

    Args:
        in_flight: answers in progress for each generator; the next ones are submitted when half of them are done.
    """
    limit = in_flight * len(rollouts.generators)
    jobs = _jobs(questions, run_seed)
    waiting = next(jobs, None)
    parts: dict[int, _Parts] = {}
    running: dict[asyncio.Future[Group], tuple[int, int]] = {}
    pending = 0
    while waiting or running:
        if pending <= limit // 2:
            batch: list[_Job] = []
            while waiting and (not pending or pending + len(waiting.job.seeds) <= limit):
                batch.append(waiting)
                pending += len(waiting.job.seeds)
                waiting = next(jobs, None)
            for foreign in (False, True):
                chosen = [one for one in batch if questions[one.number].foreign == foreign]
                prompts = [questions[one.number].prompt for one in chosen]
                futures = await rollouts.submit(prompts, [one.job for one in chosen], foreign=foreign)
                running |= {f: (one.number, one.first) for f, one in zip(futures, chosen, strict=True)}
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for future in done:
            number, first = running.pop(future)
            group, question = future.result(), questions[number]
            pending -= len(group.trajectories)
            so_far = parts.setdefault(number, _Parts([None] * question.answers, question.answers))
            for t in group.trajectories:
                so_far.found[first + t.sample_index] = replace(t, sample_index=first + t.sample_index)
            so_far.missing -= len(group.trajectories)
            if not so_far.missing:
                del parts[number]
                yield question, replace(group, trajectories=tuple(t for t in so_far.found if t is not None))


class _Job(NamedTuple):
    """A job, the number of its question, and the index of its first answer."""

    number: int
    first: int
    job: GenerationJob


def _jobs(questions: Sequence[Question], run_seed: int) -> Iterator[_Job]:
    for number, question in enumerate(questions):
        [job] = jobs_for(
            [question.prompt],
            [question.tokens],
            purpose=question.purpose,
            run_seed=run_seed,
            answers=question.answers,
            **question.decoding.plain(),
            stop=question.stop,
        )
        for first in range(0, question.answers, PART):
            seeds = job.seeds[first : first + PART]
            yield _Job(number, first, replace(job, key=f"{number}/{first}/{job.key}", seeds=seeds))
