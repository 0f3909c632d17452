"""The fork server of the mathematics verifier: its workers share memory, belong to the pool, and survive its end."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from rewards.judge import judge_all
from rewards.mathematics.symbolic.limits import CALL_S
from rewards.sandbox.process_tree import descendants
from rewards.workers.fork_server import Forked, ForkFailed, ForkServer, available
from rewards.workers.process import StartFailed, Worker, environment, start
from rewards.workers.worker_set import WorkerSet

pytestmark = pytest.mark.skipif(not available(), reason="no fork server on this machine")


def with_workers(work: Callable[[WorkerSet], Awaitable[None]]) -> None:
    async def run() -> None:
        workers = WorkerSet(4, 20.0)
        try:
            await work(workers)
        finally:
            await workers.close()

    before = set(descendants(os.getpid()))  # the zygote of tests that ran programs in this process
    asyncio.run(run())
    assert set(descendants(os.getpid())) <= before


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kilobytes(pid: int, *fields: str) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.split(":")[0] in fields)


def test_a_forked_keeper_is_a_child_of_the_pool_and_its_worker_shares_most_of_its_memory() -> None:
    async def work(workers: WorkerSet) -> None:
        one, other = await asyncio.gather(workers.get("math"), workers.get("math"))
        for worker in (one, other):
            assert isinstance(worker.process, Forked) and parent_of(worker.process.pid) == os.getpid()
            assert parent_of(worker.pid) == worker.process.pid
            private = kilobytes(worker.pid, "Private_Clean", "Private_Dirty")
            assert private < kilobytes(worker.pid, "Rss") / 2
        assert one.pid != other.pid and one.isolation == other.isolation

    with_workers(work)


def test_a_forked_and_confined_worker_decides_by_sympy_and_ends_its_calls_in_time() -> None:
    before = set(descendants(os.getpid()))
    golds = [r"\int_0^\infty e^{-x}dx", "|xy|", r"\frac{d^6}{dx^6} x^{x^{x^{x^{x}}}}"]
    answers = [r"\boxed{1}", r"\boxed{|x||y|}", r"\boxed{|x|}"]
    verdicts = judge_all("math", [({"answer": gold}, answer) for gold, answer in zip(golds, answers, strict=True)])
    assert [verdict.status for verdict in verdicts] == ["correct", "correct", "wrong"]
    assert [verdict.reason for verdict in verdicts[:2]] == ["equal by a proof of sympy"] * 2
    # The derivative takes sympy seconds; its call ends after CALL_S.
    assert verdicts[2].reason.startswith("undecided: ") and CALL_S / 2 < verdicts[2].cpu_seconds < 3 * CALL_S
    assert set(descendants(os.getpid())) <= before


def test_a_worker_goes_on_without_the_fork_server_and_the_next_one_gets_a_new_server() -> None:
    async def work(workers: WorkerSet) -> None:
        first = await workers.get("math")
        server = workers._servers["math"]._process
        assert server is not None
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        second = await workers.get("math")
        assert first.alive and second.alive
        replaced = workers._servers["math"]._process
        assert replaced is not None and replaced.pid != server.pid

    with_workers(work)


def test_the_exit_code_of_a_forked_worker_is_known() -> None:
    async def work(workers: WorkerSet) -> None:
        worker = await workers.get("math")
        os.kill(worker.pid, signal.SIGKILL)
        await worker.end(grace_s=5.0)
        assert not worker.alive and worker.process.returncode == 128 + signal.SIGKILL  # what the keeper exits with

    with_workers(work)


def test_workers_die_with_a_pool_that_is_killed() -> None:
    code = (
        "import asyncio, sys\n"
        "from rewards.workers.worker_set import WorkerSet\n"
        "async def main():\n"
        "    workers = WorkerSet(4, 20.0)\n"
        "    worker = await workers.get('math')\n"
        "    print(workers._servers['math']._process.pid, worker.process.pid, worker.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    pool = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment())
    assert pool.stdout is not None
    started = [int(word) for word in pool.stdout.readline().split()]
    pool.kill()
    pool.wait()
    until = time.monotonic() + 10
    while (alive := [pid for pid in started if is_running(pid)]) and time.monotonic() < until:
        time.sleep(0.01)
    assert len(started) == 3 and not alive


def test_a_verifier_that_the_server_cannot_load_ends_the_start_with_its_standard_error() -> None:
    async def work() -> Worker:
        server = ForkServer("no_such_verifier", environment())
        try:
            with tempfile.TemporaryFile() as errors, pytest.raises(ForkFailed, match="while it loaded"):
                await server.ready(errors)
            return await start("no_such_verifier", 20.0, server)
        finally:
            server.close()

    with pytest.raises(StartFailed, match=r"(?s)while it loaded.*must be one of"):
        asyncio.run(work())
