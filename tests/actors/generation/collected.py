"""Collect the answers of a generator as trajectories, each with the key of its job."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from actors.contracts import GenerationJob
from actors.finished import Finished
from orchestrator.rollout.answers import trajectories
from trajectories.trajectory import Trajectory

Keyed = list[tuple[str, Trajectory]]


def keyed(finished: Finished, jobs: Mapping[str, GenerationJob]) -> Keyed:
    return list(zip(finished.keys, trajectories(finished, jobs), strict=True))


async def collect(generator: Any, jobs: Sequence[GenerationJob], count: int) -> Keyed:
    """Collect `count` answers of jobs that were submitted."""
    by_key, done, end = {job.key: job for job in jobs}, Keyed(), time.monotonic() + 100
    while len(done) < count:
        assert time.monotonic() < end, f"only {len(done)} of {count} answers came"
        done += keyed(await generator.collect(1.0), by_key)
    return done


def answers(generator: Any, jobs: Sequence[GenerationJob]) -> Keyed:
    """Submit jobs and return all their answers, in the order in which they ended."""

    async def run() -> Keyed:
        await generator.submit(jobs)
        return await collect(generator, jobs, sum(len(job.seeds) for job in jobs))

    return asyncio.run(run())
