"""The worker pool, with real processes that hang, die and babble."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from rewards.sandbox import process
from rewards.sandbox.pool import Pool

OBEYS = "unruly_verifiers:obeys"


def ask(text: str, verifier: str = OBEYS, **problem: Any) -> dict[str, Any]:
    return {"verifier": verifier, "problem": problem, "answer": text}


def with_pool(
    work: Callable[[Pool], Awaitable[Any]], workers: int = 1, timeout_s: float = 20.0
) -> tuple[Any, Pool, list[int]]:
    """Run the work on a pool and close it; returns what the work returned, the pool, and the processes it left."""

    async def main() -> tuple[Any, Pool, list[int]]:
        before = children()
        pool = Pool(workers, timeout_s)
        try:
            result = await asyncio.wait_for(work(pool), 60)
        finally:
            await pool.close()
        return result, pool, sorted(children() - before)

    return asyncio.run(main())


def processes() -> dict[int, list[str]]:
    """State, parent, group and so on of every process, by its id."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found[int(status.parent.name)] = status.read_text().rpartition(")")[2].split()
    return found


def children() -> set[int]:
    """Processes whose parent is this one, zombies included."""
    return {pid for pid, fields in processes().items() if int(fields[1]) == os.getpid()}


def test_each_of_many_concurrent_tasks_gets_its_own_verdict_and_no_process_is_left() -> None:
    async def work(pool: Pool) -> list[dict[str, Any]]:
        problem = {"numbers": [3, 7, 12], "target": 22}
        answers = ["3+7+12" if index % 3 else "3*7+12" for index in range(600)]
        return await asyncio.gather(*(pool.run(ask(answer, "countdown", **problem)) for answer in answers))

    verdicts, pool, left = with_pool(work, workers=2)
    assert [verdict["reward"] for verdict in verdicts] == [1.0 if index % 3 else 0.0 for index in range(600)]
    assert pool.respawns == 0
    assert left == []


def test_an_answer_that_hangs_is_judged_twice_then_a_zero_and_those_behind_it_are_judged() -> None:
    async def work(pool: Pool) -> list[dict[str, Any]]:
        await pool.run(ask("fine"))
        return await asyncio.gather(*(pool.run(ask(answer)) for answer in ("spin", "fine", "sleep", "fine")))

    verdicts, pool, left = with_pool(work, timeout_s=0.5)
    assert [v["status"] for v in verdicts] == ["timeout", "correct", "timeout", "correct"]
    assert verdicts[0]["reward"] == 0.0
    assert verdicts[0]["reason"] == "no verdict within 0.5 s, 2 times"
    assert pool.respawns == 4
    assert left == []


@pytest.mark.parametrize(("answer", "cause"), [("exit", "exit code 7"), ("leave", "exit code 3"), ("kill", "SIGKILL")])
def test_an_answer_that_ends_its_worker_is_a_zero_with_the_cause(answer: str, cause: str) -> None:
    async def work(pool: Pool) -> list[dict[str, Any]]:
        return await asyncio.gather(pool.run(ask(answer)), pool.run(ask("fine")))

    (ended, fine), pool, left = with_pool(work)
    assert (ended["reward"], ended["status"]) == (0.0, "crash")
    assert cause in ended["reason"]
    assert fine["status"] == "correct"
    assert pool.respawns == 2
    assert left == []


def test_an_answer_whose_worker_dies_once_is_judged_on_the_next(tmp_path: Path) -> None:
    verdict, pool, _ = with_pool(lambda pool: pool.run(ask("once", mark=str(tmp_path / "mark"))))
    assert verdict["status"] == "correct"
    assert pool.respawns == 1


def test_a_worker_killed_from_outside_is_replaced_and_its_answer_judged_again(tmp_path: Path) -> None:
    async def work(pool: Pool) -> list[dict[str, Any]]:
        first = int((await pool.run(ask("pid")))["reward"])
        os.kill(first, signal.SIGKILL)  # while idle
        second = int((await pool.run(ask("pid")))["reward"])
        assert second != first
        busy = asyncio.create_task(pool.run(ask("sleep")))
        await asyncio.sleep(0.1)
        os.kill(second, signal.SIGKILL)  # in the middle of a task
        waiting = asyncio.create_task(pool.run(ask("fine")))
        return [await busy, await waiting]

    (hung, fine), pool, left = with_pool(work, timeout_s=2.0)
    assert hung["status"] == "timeout"
    assert fine["status"] == "correct"
    assert pool.respawns == 3
    assert left == []


def test_garbage_on_standard_output_does_not_reach_the_verdicts() -> None:
    async def work(pool: Pool) -> list[dict[str, Any]]:
        return [await pool.run(ask(answer)) for answer in ("print", "fine")]

    verdicts, pool, _ = with_pool(work)
    assert [v["status"] for v in verdicts] == ["correct", "correct"]
    assert pool.respawns == 0


def test_what_a_hanging_worker_forked_is_killed_with_it() -> None:
    async def work(pool: Pool) -> str:
        pid = int((await pool.run(ask("pid")))["reward"])
        await pool.run(ask("child"))
        return str(pid)

    group, _, left = with_pool(work, timeout_s=0.5)
    assert group not in {fields[2] for fields in processes().values() if fields[0] != "Z"}
    assert left == []


def test_a_verifier_that_raises_or_cannot_be_loaded_masks_and_costs_no_other_verifier() -> None:
    async def work(pool: Pool) -> list[dict[str, Any]]:
        tasks = [ask("raise"), ask("x", "no_such_module:verify"), ask("y", "no_such_module:verify"), ask("fine")]
        return await asyncio.gather(*map(pool.run, tasks))

    (raised, missing, again, fine), _, left = with_pool(work)
    assert [v["reward"] for v in (raised, missing, again)] == [None, None, None]
    assert {v["status"] for v in (raised, missing, again)} == {"grader_error"}
    assert "no_such_module" in missing["reason"]
    assert fine["status"] == "correct"
    assert left == []


def test_a_worker_that_cannot_start_is_a_grader_error_with_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no module named encodings >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))

    async def work(pool: Pool) -> list[dict[str, Any]]:
        return await asyncio.gather(*(pool.run(ask("fine")) for _ in range(100)))

    verdicts, _, left = with_pool(work)
    assert {v["status"] for v in verdicts} == {"grader_error"}
    assert "a worker could not start" in verdicts[0]["reason"]
    assert "exit code 3" in verdicts[0]["reason"]
    assert "no module named encodings" in verdicts[0]["reason"]
    assert left == []


def test_workers_are_recycled_and_the_spare_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "TASKS_PER_WORKER", 3)

    async def work(pool: Pool) -> list[float]:
        return [(await pool.run(ask("pid")))["reward"] for _ in range(9)]

    pids, pool, left = with_pool(work)
    assert len(set(pids)) == 3
    assert pool.respawns == 3
    assert left == []


def test_a_busy_parent_does_not_turn_verdicts_into_timeouts() -> None:
    async def work(pool: Pool) -> list[dict[str, Any]]:
        await pool.run(ask("fine"))
        running = [asyncio.create_task(pool.run(ask("fine"))) for _ in range(5)]
        await asyncio.sleep(0.01)
        time.sleep(0.8)  # the event loop is blocked for longer than the deadline
        return await asyncio.gather(*running)

    verdicts, pool, _ = with_pool(work, timeout_s=0.4)
    assert {v["status"] for v in verdicts} == {"correct"}
    assert pool.respawns == 0


def test_closing_in_the_middle_of_work_cancels_callers_and_leaves_no_process() -> None:
    async def main() -> tuple[list[Any], list[int]]:
        before = children()
        pool = Pool(2, 60.0)
        running = [asyncio.create_task(pool.run(ask("sleep"))) for _ in range(8)]
        while len(children() - before) < 2:
            await asyncio.sleep(0.01)
        await pool.close()
        results = await asyncio.wait_for(asyncio.gather(*running, return_exceptions=True), 10)
        return results, sorted(children() - before)

    results, left = asyncio.run(main())
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert left == []


def test_hostile_text_crosses_the_pipe_unharmed() -> None:
    async def work(pool: Pool) -> list[dict[str, Any]]:
        texts = ["\x00" * 1000, "\ud800\udfff", "x" * 100_000, '{"ready": 1}', "\u202e", "😀" * 1000]
        return await asyncio.gather(*(pool.run(ask(text, "unruly_verifiers:echoes", said=text)) for text in texts))

    verdicts, _, _ = with_pool(work)
    assert {v["status"] for v in verdicts} == {"correct"}


def test_workers_die_with_a_parent_that_is_killed_in_the_middle_of_work() -> None:
    program = (
        "import asyncio\n"
        "from rewards.sandbox.pool import Pool\n"
        "async def main():\n"
        "    pool = Pool(1, 600.0)\n"
        "    task = {'verifier': 'unruly_verifiers:obeys', 'problem': {}, 'answer': 'pid'}\n"
        "    print(int((await pool.run(task))['reward']), flush=True)\n"
        "    await pool.run(task | {'answer': 'spin'})\n"
        "asyncio.run(main())\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        time.sleep(0.1)  # the worker spins
        parent.kill()
    until = time.monotonic() + 20
    while (alive := processes().get(worker, ["Z"])[0] not in "ZX") and time.monotonic() < until:
        time.sleep(0.01)
    assert not alive
