"""Follow a submitted job: pass its output on until it ends. Importing this loads no Ray."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable

from orchestrator.submission.contract import Cluster
from orchestrator.submission.names import Job

SILENCE_S = 20.0
"""The cluster is asked for the job's status after so long without output: a dead connection says nothing."""
RETRIES = 10
"""Successive failures after which following ends. The job goes on."""
PAUSE_S = 1.0


async def follow(
    cluster: Cluster, job_id: str, write: Callable[[str], None], *, limit_s: float | None = None, skip: int = 0
) -> Job:
    """Pass the output of a job to `write` until the job ends, and return it as it ended.

    A lost connection is opened again; no output is passed on twice.

    Args:
        skip: number of characters at the beginning that are not passed on.
        limit_s: end after so long in any case, and return the job as it is.

    Raises:
        ValueError: the cluster has not answered several times in a row.
    """
    shown, failures, began = skip, 0, time.monotonic()
    while True:
        position = 0
        try:
            async with contextlib.aclosing(_watched(cluster, job_id, began, limit_s)) as chunks:
                async for text in chunks:
                    position += len(text)
                    if position > shown:
                        write(text[len(text) - (position - shown) :])
                        shown, failures = position, 0
            job = await asyncio.to_thread(cluster.job, job_id)
            if job.ended or _late(began, limit_s):
                return job
        except ValueError:
            failures += 1
            if failures > RETRIES:
                raise
        await asyncio.sleep(PAUSE_S)


async def _watched(cluster: Cluster, job_id: str, began: float, limit_s: float | None) -> AsyncGenerator[str]:
    """Yield the job's output. While there is none, ask whether the job goes on, and end if it does not."""
    tail = aiter(cluster.tail(job_id))
    waiting: asyncio.Future[str] | None = None
    try:
        while not _late(began, limit_s):
            waiting = waiting or asyncio.ensure_future(anext(tail))
            await asyncio.wait({waiting}, timeout=SILENCE_S if limit_s is None else min(SILENCE_S, limit_s))
            if waiting.done():
                done, waiting = waiting, None
                try:
                    yield done.result()
                except StopAsyncIteration:
                    return
            elif (await asyncio.to_thread(cluster.job, job_id)).ended:
                return
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


def _late(began: float, limit_s: float | None) -> bool:
    return limit_s is not None and time.monotonic() - began > limit_s
