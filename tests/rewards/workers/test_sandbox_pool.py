"""The worker pool with real processes: verifiers that hang, die, print and start other processes."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from rewards.verdict import Verdict
from rewards.workers import pool as pool_module
from rewards.workers import process
from rewards.workers.pool import Pool

pytestmark = pytest.mark.slow
OBEYS = "unruly_verifiers:obeys"


def judge(pool: Pool, text: str, verifier: str = OBEYS, **problem: Any) -> Awaitable[Verdict]:
    return pool.run(verifier, problem, text)


def with_pool(
    work: Callable[[Pool], Awaitable[Any]], workers: int = 1, timeout_s: float = 20.0
) -> tuple[Any, Pool, list[int]]:
    """Run `work` on a pool and close it. Return the result, the pool, and the processes that are left."""

    async def main() -> tuple[Any, Pool, list[int]]:
        before = children()
        pool = Pool(workers, timeout_s, timeout_s)
        try:
            result = await asyncio.wait_for(work(pool), 60)
        finally:
            await pool.close()
        return result, pool, sorted(children() - before)

    return asyncio.run(main())


def processes() -> dict[int, list[str]]:
    """Return the fields of /proc/PID/stat from the state on, of every process by its id."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found[int(status.parent.name)] = status.read_text().rpartition(")")[2].split()
    return found


def alive(pid: int) -> bool:
    return processes().get(pid, ["X"])[0] not in "ZX"


def outlives(pid: int, wait_s: float = 10.0) -> bool:
    until = time.monotonic() + wait_s
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.01)
    return alive(pid)


def children() -> set[int]:
    """Return the child processes of this one, zombies included."""
    return {pid for pid, fields in processes().items() if int(fields[1]) == os.getpid()}


def test_each_of_many_concurrent_tasks_gets_its_own_verdict_and_no_process_is_left() -> None:
    async def work(pool: Pool) -> list[Verdict]:
        problem = {"numbers": [3, 7, 12], "target": 22}
        answers = ["3+7+12" if index % 3 else "3*7+12" for index in range(600)]
        return await asyncio.gather(*(judge(pool, answer, "countdown", **problem) for answer in answers))

    verdicts, pool, left = with_pool(work, workers=2)
    assert [verdict.reward for verdict in verdicts] == [1.0 if index % 3 else 0.0 for index in range(600)]
    assert {(v.version.partition("@")[0], v.isolation > 0, v.seconds > 0) for v in verdicts} == {
        ("countdown", True, True)
    }
    assert pool.respawns == 0
    assert left == []


def test_an_answer_that_hangs_times_out_and_the_answers_behind_it_are_judged() -> None:
    async def work(pool: Pool) -> list[Verdict]:
        await judge(pool, "fine")
        return await asyncio.gather(*(judge(pool, answer) for answer in ("spin", "fine", "sleep", "fine")))

    verdicts, pool, left = with_pool(work, timeout_s=0.5)
    assert [v.status for v in verdicts] == ["timeout", "correct", "timeout", "correct"]
    assert verdicts[0].reward == 0.0
    assert verdicts[0].reason == "no verdict within 0.5 s"
    assert 0.5 <= verdicts[0].seconds < 1.5
    assert pool.respawns == 2
    assert left == []


def test_time_in_which_a_worker_had_no_core_does_not_count_towards_the_deadline() -> None:
    """The answer needs 0.5 s of a core that it shares with another process. Its deadline is 0.8 s."""
    core = min(os.sched_getaffinity(0))

    async def work(pool: Pool) -> tuple[Verdict, Verdict]:
        os.sched_setaffinity(int((await judge(pool, "pid")).reward or 0), {core})
        with subprocess.Popen(["taskset", "-c", str(core), sys.executable, "-c", "while True: pass"]) as rival:
            try:
                await asyncio.sleep(0.1)
                return await judge(pool, "burn"), await judge(pool, "sleep")
            finally:
                rival.kill()

    (burnt, slept), pool, left = with_pool(work, timeout_s=0.8)
    assert (burnt.status, burnt.seconds > 0.8) == ("correct", True)
    assert (slept.status, slept.seconds < 1.2) == ("timeout", True)  # it waited, but not for a core
    assert pool.respawns == 1
    assert left == []


@pytest.mark.parametrize(
    ("answer", "cause", "tries"), [("exit", "exit code 7", 2), ("leave", "exit code 3", 2), ("kill", "SIGKILL", 4)]
)
def test_an_answer_that_ends_its_worker_gets_reward_0_with_the_cause(answer: str, cause: str, tries: int) -> None:
    async def work(pool: Pool) -> list[Verdict]:
        return await asyncio.gather(judge(pool, answer), judge(pool, "fine"))

    (ended, fine), pool, left = with_pool(work)
    assert (ended.reward, ended.status) == (0.0, "crash")
    assert cause in ended.reason
    assert fine.status == "correct"
    assert pool.respawns == tries
    assert left == []


def test_an_answer_whose_worker_dies_once_is_judged_by_the_next_worker(tmp_path: Path) -> None:
    verdict, pool, _ = with_pool(lambda pool: judge(pool, "once", mark=str(tmp_path / "mark")))
    assert verdict.status == "correct"
    assert pool.respawns == 1


def test_each_of_a_thousand_answers_gets_one_right_verdict_while_workers_are_killed_at_random() -> None:
    luck = random.Random(0)
    killed: set[int] = set()

    async def kill_at_random(us: int) -> None:
        for _ in range(8):
            await asyncio.sleep(0.15)
            below = {pid for pid, fields in processes().items() if int(fields[1]) in children() | {us}}
            victim = luck.choice(sorted(below - {us}))  # a worker, or its keeper
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                killed.add(victim)

    async def work(pool: Pool) -> list[Verdict]:
        settled: list[int] = []

        async def one(index: int) -> Verdict:
            verdict = await judge(pool, "a", "unruly_verifiers:dozes", said="ab"[index % 2])
            settled.append(index)
            return verdict

        killing = asyncio.create_task(kill_at_random(os.getpid()))
        try:
            verdicts = await asyncio.gather(*map(one, range(1_000)))
        finally:
            killing.cancel()
        assert sorted(settled) == list(range(1_000))
        return verdicts

    verdicts, pool, left = with_pool(work, workers=2)
    assert [v.status for v in verdicts] == ["correct", "wrong"] * 500
    assert len(killed) >= 4
    assert pool.respawns >= 2
    assert left == []


def test_a_worker_killed_from_outside_is_replaced_and_its_answer_judged_again() -> None:
    async def work(pool: Pool) -> list[Verdict]:
        first = int((await judge(pool, "pid")).reward or 0)
        os.kill(first, signal.SIGKILL)  # while idle
        second = int((await judge(pool, "pid")).reward or 0)
        assert second != first
        busy = asyncio.create_task(judge(pool, "sleep"))
        await asyncio.sleep(0.1)
        os.kill(second, signal.SIGKILL)  # in the middle of a task
        waiting = asyncio.create_task(judge(pool, "fine"))
        return [await busy, await waiting]

    (hung, fine), pool, left = with_pool(work, timeout_s=1.0)
    assert hung.status == "timeout"
    assert fine.status == "correct"
    assert pool.respawns == 3
    assert left == []


def test_garbage_on_standard_output_does_not_reach_the_verdicts() -> None:
    async def work(pool: Pool) -> list[Verdict]:
        return [await judge(pool, answer) for answer in ("print", "fine")]

    verdicts, pool, _ = with_pool(work)
    assert [v.status for v in verdicts] == ["correct", "correct"]
    assert pool.respawns == 0


def test_a_child_of_a_hanging_worker_is_killed_with_it() -> None:
    async def work(pool: Pool) -> str:
        pid = int((await judge(pool, "pid")).reward or 0)
        group = processes()[pid][2]
        await judge(pool, "child")
        return group

    group, _, left = with_pool(work, timeout_s=0.5)
    assert group not in {fields[2] for fields in processes().values() if fields[0] != "Z"}
    assert left == []


@pytest.mark.parametrize(("answer", "status"), [("", "correct"), (", exit", "crash"), (", spin", "timeout")])
def test_a_daemon_that_a_verifier_started_ends_with_its_worker(answer: str, status: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    async def work(pool: Pool) -> tuple[Verdict, bool]:
        verdict = await judge(pool, f"daemon{answer}", mark=str(mark))
        return verdict, alive(int(mark.read_text()))

    (verdict, lived_on), _, left = with_pool(work, timeout_s=1.0)
    assert verdict.status == status
    assert lived_on == (status == "correct")
    assert not alive(int(mark.read_text()))
    assert left == []


def test_verifiers_that_alternate_keep_one_worker_each() -> None:
    async def work(pool: Pool) -> list[Verdict]:
        return [await judge(pool, "pid", verifier) for verifier in (OBEYS, "unruly_verifiers:number") * 10]

    verdicts, pool, left = with_pool(work)
    assert len({v.reward for v in verdicts}) == 2
    assert pool.respawns == 0
    assert left == []


def test_a_pool_keeps_workers_of_the_most_recently_used_verifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "IDLE_WORKERS", 1)

    async def work(pool: Pool) -> list[set[int]]:
        seen = []
        for verifier in (OBEYS, "unruly_verifiers:number", OBEYS):
            await judge(pool, "pid", verifier)
            await asyncio.sleep(0.2)
            seen.append(children())
        return seen

    before = children()
    seen, _, left = with_pool(work)
    assert [len(found - before) for found in seen] == [1, 1, 1]
    assert left == []


def test_a_task_that_cannot_be_sent_is_a_grader_error_and_the_others_of_its_batch_are_judged() -> None:
    problem = {"numbers": [3, 7, 12], "target": 22}

    async def work(pool: Pool) -> list[Verdict]:
        problems = [problem, {"x": object()}, problem, {"numbers": {1, 2}}, problem]
        return await asyncio.gather(*(judge(pool, "3+7+12", "countdown", **one) for one in problems))

    verdicts, pool, _ = with_pool(work)
    assert [v.status for v in verdicts] == ["correct", "grader_error", "correct", "grader_error", "correct"]
    assert pool.respawns == 0


def test_a_worker_that_lost_its_fork_server_is_replaced_and_its_answer_judged_again() -> None:
    problem = {"kind": "assert", "entry_point": "twice", "tests": "assert twice(3) == 6"}

    async def work(pool: Pool) -> list[Verdict]:
        right = "def twice(x):\n    return x + x\n"
        first = await judge(pool, right, "code", **problem)
        [worker] = pool._workers.running
        for pid, fields in processes().items():
            if int(fields[1]) == worker.pid:
                os.kill(pid, signal.SIGKILL)
        return [
            first,
            await judge(pool, right, "code", **problem),
            await judge(pool, "def twice(x): ...", "code", **problem),
        ]

    verdicts, pool, left = with_pool(work)
    assert [v.status for v in verdicts] == ["correct", "correct", "wrong"]
    assert pool.respawns == 1
    assert left == []


def test_a_verifier_that_raises_or_cannot_be_loaded_is_a_grader_error_and_others_still_work() -> None:
    async def work(pool: Pool) -> list[Verdict]:
        tasks = (
            judge(pool, "raise"),
            *(judge(pool, "x", "no_such_module:verify") for _ in range(2)),
            judge(pool, "fine"),
        )
        return await asyncio.gather(*tasks)

    (raised, missing, again, fine), _, left = with_pool(work)
    assert {(v.reward, v.status) for v in (raised, missing, again)} == {(None, "grader_error")}
    assert "no_such_module" in missing.reason
    assert fine.status == "correct"
    assert left == []


@pytest.mark.parametrize("problem", [{"x": object()}, {"x": {1, 2}}])
def test_a_problem_that_is_not_json_is_a_grader_error(problem: dict[str, Any]) -> None:
    verdict, _, _ = with_pool(lambda pool: pool.run("countdown", problem, "1"))
    assert verdict.status == "grader_error"
    assert "the problem cannot be used" in verdict.reason


def test_a_worker_that_cannot_start_is_a_grader_error_with_its_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no module named encodings >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))

    async def work(pool: Pool) -> list[Verdict]:
        return await asyncio.gather(*(judge(pool, "fine") for _ in range(100)))

    verdicts, _, left = with_pool(work)
    assert {v.status for v in verdicts} == {"grader_error"}
    assert "a worker could not start" in verdicts[0].reason
    assert "exit code 3" in verdicts[0].reason
    assert "no module named encodings" in verdicts[0].reason
    assert left == []


def test_a_worker_killed_while_it_starts_is_replaced_and_no_answer_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    spawn, started = process.spawn, []

    def spawn_and_kill_the_first(*arguments: Any) -> "subprocess.Popen[bytes]":
        started.append(spawn(*arguments))
        if len(started) == 1:
            started[0].kill()
        return started[-1]

    monkeypatch.setattr(process, "spawn", spawn_and_kill_the_first)
    verdict, _, left = with_pool(lambda pool: judge(pool, "fine"))
    assert (verdict.status, len(started)) == ("correct", 2)
    assert left == []


def test_workers_are_replaced_by_the_spare_after_their_number_of_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "TASKS_PER_WORKER", 3)

    async def work(pool: Pool) -> list[float | None]:
        return [(await judge(pool, "pid")).reward for _ in range(9)]

    pids, pool, left = with_pool(work)
    assert len(set(pids)) == 3
    assert pool.respawns == 3
    assert left == []


def test_a_busy_parent_does_not_turn_verdicts_into_timeouts() -> None:
    async def work(pool: Pool) -> list[Verdict]:
        await judge(pool, "fine")
        running = [asyncio.ensure_future(judge(pool, "fine")) for _ in range(5)]
        await asyncio.sleep(0.01)
        time.sleep(0.8)  # the event loop is blocked for longer than the deadline
        return await asyncio.gather(*running)

    verdicts, pool, _ = with_pool(work, timeout_s=0.4)
    assert {v.status for v in verdicts} == {"correct"}
    assert pool.respawns == 0


def test_closing_a_busy_pool_cancels_its_callers_and_leaves_no_process() -> None:
    async def main() -> tuple[list[Any], list[int]]:
        before = children()
        pool = Pool(2, 60.0, 60.0)
        running = [asyncio.ensure_future(judge(pool, "sleep")) for _ in range(8)]
        while len(children() - before) < 2:
            await asyncio.sleep(0.01)
        await pool.close()
        results = await asyncio.wait_for(asyncio.gather(*running, return_exceptions=True), 10)
        return results, sorted(children() - before)

    results, left = asyncio.run(main())
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert left == []


def test_hostile_text_reaches_the_verifier_unchanged() -> None:
    async def work(pool: Pool) -> list[Verdict]:
        texts = ["\x00" * 1000, "\ud800\udfff", "x" * 100_000, '{"ready": 1}', "\u202e", "😀" * 1000]
        return await asyncio.gather(*(judge(pool, text, "unruly_verifiers:echoes", said=text) for text in texts))

    verdicts, _, _ = with_pool(work)
    assert {v.status for v in verdicts} == {"correct"}


def test_workers_and_their_daemons_die_with_a_parent_that_is_killed_in_the_middle_of_work(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from rewards.workers.pool import Pool\n"
        "async def main():\n"
        "    pool = Pool(1, 600.0, 600.0)\n"
        "    judge = lambda answer: pool.run('unruly_verifiers:obeys', {'mark': sys.argv[1]}, answer)\n"
        "    print(int((await judge('pid')).reward), flush=True)\n"
        "    await judge('daemon, spin')\n"
        "asyncio.run(main())\n"
    )
    mark = tmp_path / "mark"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(mark)], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        keeper = int(processes()[worker][1])
        while not mark.exists():
            time.sleep(0.01)
        daemon = int(mark.read_text())
        assert all(map(alive, (worker, keeper, daemon)))
        parent.kill()
    assert not any(map(outlives, (worker, keeper, daemon)))
