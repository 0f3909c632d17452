"""Heartbeats of a driver's event loop, and what the process that started it does when they stop coming."""

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.machine.processes import _began
from orchestrator.recovery import driver_beats, restarts
from orchestrator.recovery.driver_beats import AFTER_S, OUTSIDE_S, PIPE, Beats, Listener
from orchestrator.recovery.restarts import Supervisor

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    with Listener() as found:
        monkeypatch.setenv(PIPE, str(os.dup(found.write)))
        yield found


def test_the_limit_is_that_of_what_the_event_loop_does(listener: Listener) -> None:
    limits: list[float] = []

    def note() -> None:
        listener.silent(0.0)
        limits.append(listener.limit_s)

    async def body() -> None:
        note()
        async with Beats().sent() as beats:
            await asyncio.sleep(0)
            note()
            with beats.within(8.0):
                note()
            note()
        note()

    asyncio.run(body())
    assert limits == [OUTSIDE_S, OUTSIDE_S, 8.0, OUTSIDE_S, AFTER_S]
    assert PIPE not in os.environ, "what the driver starts is not listened to"


def test_waits_without_a_heartbeat_add_up_and_each_heartbeat_ends_the_silence(listener: Listener) -> None:
    pipe = os.dup(listener.write)
    listener.limit_s = 0.03
    assert [listener.silent(0.01) for _ in range(4)] == [False, False, True, True]
    os.write(pipe, driver_beats.BEAT.pack(0.02) * 3)
    assert [listener.silent(0.01) for _ in range(3)] == [False, False, True] and listener.limit_s == 0.02
    os.close(pipe)


def test_a_reader_that_is_suspended_for_long_does_not_block_the_driver(listener: Listener) -> None:
    async def body() -> None:
        async with Beats().sent() as beats:
            for _ in range(20_000):  # above the size of a pipe
                beats._send(8.0)

    asyncio.run(body())


def test_without_a_process_that_listens_nothing_is_sent() -> None:
    async def body() -> None:
        async with Beats().sent() as beats:
            with beats.within(8.0):
                pass

    asyncio.run(body())


PROGRAM = """
import asyncio, os, pathlib, signal, subprocess, sys, time
from orchestrator.recovery.driver_beats import Beats
folder = pathlib.Path({folder!r})
(folder / "run" / "checkpoints").mkdir(parents=True, exist_ok=True)
calls = folder / "calls"
calls.open("a").write("x")
number = len(calls.read_text())

def child(code):
    process = subprocess.Popen([sys.executable, "-c", code])
    (folder / "child").write_text(str(process.pid))

async def main(inside, after=lambda: None):
    async with Beats().sent() as beats:
        with beats.within({limit_s}):
            await asyncio.sleep(0.3)
            inside()
            await asyncio.sleep(0.3)
        after()
{body}
"""


def supervise(folder: Path, monkeypatch: pytest.MonkeyPatch, limit_s: float, body: str) -> tuple[int, list[str], int]:
    """Return the exit status, the lines for the user and the number of processes that were started."""
    (folder / "breadth.py").write_text(PROGRAM.format(folder=str(folder), limit_s=limit_s, body=body))
    monkeypatch.setattr(restarts, "ROOT", folder)
    monkeypatch.setattr(driver_beats, "BEAT_S", 0.05)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    lines: list[str] = []
    status = Supervisor(["name=run"], folder / "run", 1, lines.append, backoff_s=0.01).run()
    return status, lines, len((folder / "calls").read_text())


@pytest.mark.timed
@pytest.mark.parametrize("stuck", ["time.sleep(600)", "os.kill(os.getpid(), signal.SIGSTOP)"])
def test_a_driver_whose_event_loop_is_stuck_is_killed_with_what_it_has_started_and_started_again(
    stuck: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.machine.processes.GRACE_S", 0.5)
    body = f"""
def gets_stuck():
    child("import time; time.sleep(600)")
    {stuck}
asyncio.run(main(gets_stuck if number == 1 else lambda: None))
"""
    status, lines, count = supervise(tmp_path, monkeypatch, 3.0, body)
    assert (status, count) == (0, 2)
    [folder] = (tmp_path / "run" / "stacks").iterdir()
    assert lines == [
        f"the event loop of the run has not run for 3 s, so it is killed. The stacks of 2 processes are in {folder}",
        "restart 1 of 1: the run was ended by SIGKILL; goes on from the start in 0 s",
    ]
    child = int((tmp_path / "child").read_text())
    until = time.monotonic() + 10
    while _began(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _began(child)
    assert any("gets_stuck" in file.read_text() for file in folder.iterdir())


@pytest.mark.timed
@pytest.mark.parametrize(
    "body",
    [
        "asyncio.run(main(lambda: time.sleep(1)))",
        "time.sleep(4); asyncio.run(main(lambda: None))",
        "asyncio.run(main(lambda: None, after=lambda: time.sleep(4)))",
        "asyncio.run(main(lambda: None)); time.sleep(4)",
    ],
    ids=["for less than the limit", "before the event loop", "after training", "after the event loop"],
)
def test_a_driver_that_is_blocked_where_it_may_be_is_left_alone(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert supervise(tmp_path, monkeypatch, 3.0, body) == (0, [], 1)


@pytest.mark.timed
def test_a_run_whose_directory_does_not_answer_is_killed_without_its_stacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.recovery.stacks._write", lambda *arguments: time.sleep(600))
    monkeypatch.setattr("orchestrator.recovery.stacks.LONGEST_S", 1.0)
    body = "asyncio.run(main(lambda: time.sleep(600 if number == 1 else 0)))"
    status, lines, count = supervise(tmp_path, monkeypatch, 1.0, body)
    assert (status, count) == (0, 2) and lines[0].endswith("so it is killed. Its stacks could not be written")
