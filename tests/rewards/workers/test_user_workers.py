"""Workers of user verifiers, with real processes: how many there are, calls at the same time, and first calls."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rewards.verdict import Verdict
from rewards.workers.pool import Pool

pytestmark = pytest.mark.slow
ASYNC = "unruly_verifiers:obeys_at_once"
CORES = len(os.sched_getaffinity(0))


def with_pool(
    work: Callable[[Pool], Awaitable[Any]], *, workers: int = 0, timeout_s: float = 20.0, first_s: float = 20.0
) -> tuple[Any, Pool]:
    async def main() -> tuple[Any, Pool]:
        pool = Pool(workers, timeout_s, first_s)
        try:
            return await asyncio.wait_for(work(pool), 60), pool
        finally:
            await pool.close()

    return asyncio.run(main())


def judged(pool: Pool, verifier: str, answers: list[str]) -> Awaitable[list[Verdict]]:
    return asyncio.gather(*(pool.run(verifier, {}, answer) for answer in answers))


def pids(verdicts: list[Verdict]) -> set[float | None]:
    return {verdict.reward for verdict in verdicts}


def test_a_verifier_that_waits_gets_more_workers_than_cores_and_one_that_computes_does_not() -> None:
    async def work(pool: Pool) -> tuple[list[Verdict], list[Verdict]]:
        waited = await judged(pool, "unruly_verifiers:waits", [""] * 200)
        return waited, await judged(pool, "unruly_verifiers:computes", [""] * 60)

    (waited, computed), pool = with_pool(work)
    assert CORES < len(pids(waited)) <= max(16, CORES)
    # Other processes on the machine let a worker wait for more than a core now and then.
    assert len(pids(computed)) <= 2 * CORES
    assert pool.respawns == 0


def test_a_given_number_of_workers_is_kept() -> None:
    verdicts, _ = with_pool(lambda pool: judged(pool, "unruly_verifiers:waits", [""] * 40), workers=3)
    assert len(pids(verdicts)) == 3


def test_calls_of_an_async_verifier_run_at_the_same_time_in_one_worker() -> None:
    async def work(pool: Pool) -> tuple[list[Verdict], float]:
        await judged(pool, ASYNC, [""])
        started = time.monotonic()
        verdicts = await judged(pool, ASYNC, [""] * 512)
        return verdicts, time.monotonic() - started

    (verdicts, seconds), pool = with_pool(work)
    assert len(pids(verdicts)) == 1
    assert {verdict.status for verdict in verdicts} == {"correct"}
    assert seconds < 512 * 0.05 / 4  # 64 at a time take 0.4 s
    assert pool.respawns == 0


def test_an_async_call_beyond_its_deadline_is_cancelled_and_the_others_go_on() -> None:
    async def work(pool: Pool) -> list[Verdict]:
        await judged(pool, ASYNC, [""])
        return await judged(pool, ASYNC, ["wait", "", "raise", "wait", ""])

    verdicts, pool = with_pool(work, timeout_s=0.5)
    assert [verdict.status for verdict in verdicts] == ["timeout", "correct", "grader_error", "timeout", "correct"]
    assert verdicts[0].reason == "no verdict within 0.5 s"
    assert pool.respawns == 0


@pytest.mark.parametrize(("deed", "status"), [("exit", "crash"), ("block", "timeout")])
def test_an_async_call_that_ends_or_blocks_its_worker_takes_no_other_answer_with_it(deed: str, status: str) -> None:
    async def work(pool: Pool) -> list[Verdict]:
        await judged(pool, ASYNC, [""])
        return await judged(pool, ASYNC, ["", deed, "", ""])

    verdicts, pool = with_pool(work, timeout_s=0.5)
    assert [verdict.status for verdict in verdicts] == ["correct", status, "correct", "correct"]
    assert pool.respawns >= 2


def test_verifiers_share_the_workers_that_may_be_busy() -> None:
    """One worker at a time: the async verifier must give way to the other."""

    async def work(pool: Pool) -> list[Verdict]:
        many = asyncio.ensure_future(judged(pool, ASYNC, [""] * 600))
        await asyncio.sleep(0.3)
        await judged(pool, "countdown", ["1"])
        assert not many.done()
        return await many

    verdicts, _ = with_pool(work, workers=1)
    assert {verdict.status for verdict in verdicts} == {"correct"}


def test_a_step_of_a_check_has_a_limit_of_its_own() -> None:
    """The first step takes 0.7 s of the 5 s that it may take, the second may take 0.3 s."""

    async def work(pool: Pool) -> list[Verdict]:
        return [(await judged(pool, "unruly_verifiers:takes_steps", [answer]))[0] for answer in ("", "sleep", "")]

    verdicts, pool = with_pool(work, timeout_s=0.4, first_s=0.4)
    assert [verdict.status for verdict in verdicts] == ["correct", "timeout", "correct"]
    assert verdicts[1].reason == "no verdict within 0.3 s"
    assert pool.respawns == 1


def test_the_first_call_in_a_worker_has_a_limit_of_its_own() -> None:
    verifier = "unruly_verifiers:loads_first"

    async def work(pool: Pool) -> list[Verdict]:
        return [(await judged(pool, verifier, [answer]))[0] for answer in ("", "", "sleep", "")]

    verdicts, _ = with_pool(work, timeout_s=0.3, first_s=20.0)
    assert [verdict.status for verdict in verdicts] == ["correct", "correct", "timeout", "correct"]
    assert verdicts[2].reason == "no verdict within 0.3 s"
    verdicts, _ = with_pool(lambda pool: judged(pool, verifier, [""]), timeout_s=0.3, first_s=0.4)
    assert [(verdict.status, verdict.reason) for verdict in verdicts] == [("timeout", "no verdict within 0.4 s")]
