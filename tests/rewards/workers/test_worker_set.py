"""The set of worker processes: how many start at a time, and what a worker imports."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from rewards.workers import worker_set
from rewards.workers.demand import machine_cores
from rewards.workers.process import StartFailed, Worker
from rewards.workers.worker_set import WorkerSet


def test_one_worker_for_each_core_starts_at_a_time_and_no_verifier_waits_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starting: list[str] = []
    most: dict[str, int] = {}

    async def start(verifier: str, timeout_s: float, server: None) -> Worker:
        starting.append(verifier)
        most[verifier] = max(most.get(verifier, 0), starting.count(verifier))
        await asyncio.sleep(0.01)
        starting.remove(verifier)
        raise StartFailed("no process is needed here")

    async def work() -> None:
        workers = WorkerSet(4, 20.0)
        wanted = (name for name in ("a:a", "b:b") for _ in range(4 * machine_cores()))
        await asyncio.gather(*map(workers.get, wanted), return_exceptions=True)

    monkeypatch.setattr(worker_set, "start", start)
    asyncio.run(work())
    assert most == {"a:a": machine_cores(), "b:b": machine_cores()}


def test_a_worker_starts_without_asyncio() -> None:
    code = "import sys, rewards.workers.worker; print('asyncio' in sys.modules)"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=root)
    assert done.stdout.strip() == "False", done.stderr
