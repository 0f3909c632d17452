"""`breadth train --restarts N`, with small programs in place of `breadth.py`."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.recovery import restarts
from orchestrator.recovery.restarts import Supervisor

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import os, pathlib, signal, sys, time
folder = pathlib.Path({folder!r})
run = folder / "run"
calls = folder / "calls"
calls.open("a").write(" ".join(sys.argv[1:]) + chr(10))
number = len(calls.read_text().splitlines())
(run / "checkpoints").mkdir(parents=True, exist_ok=True)
(run / "config.yaml").touch()
{body}
"""


Supervise = Callable[..., tuple[int, list[str], list[str]]]
"""Returns the exit status, the lines for the user, and the arguments of each process."""


@pytest.fixture
def supervise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Supervise:
    """Return a function that runs a program under a supervisor."""

    def run(body: str, count: int = 3) -> tuple[int, list[str], list[str]]:
        (tmp_path / "breadth.py").write_text(PROGRAM.format(folder=str(tmp_path), body=body))
        monkeypatch.setattr(restarts, "ROOT", tmp_path)
        lines: list[str] = []
        supervisor = Supervisor(["name=run"], tmp_path / "run", count, lines.append, backoff_s=0.01)
        status = supervisor.run()
        return status, lines, (tmp_path / "calls").read_text().splitlines()

    return run


def test_a_run_that_fails_or_is_killed_is_resumed_until_it_is_done(supervise: Supervise) -> None:
    status, lines, calls = supervise("sys.exit(1) if number == 1 else os.kill(os.getpid(), 9) if number == 2 else 0")
    assert status == 0
    assert calls == ["train name=run", "train name=run --resume", "train name=run --resume"]
    assert lines == [
        "restart 1 of 3: the run failed (status 1); goes on from the start in 0 s",
        "restart 2 of 3: the run was ended by SIGKILL; goes on from the start in 0 s",
    ]


def test_restarts_without_a_checkpoint_end_and_a_checkpoint_begins_a_new_count(supervise: Supervise) -> None:
    status, lines, calls = supervise("sys.exit(1)", count=2)
    assert (status, len(calls)) == (1, 3)
    assert lines[-1] == "the run failed (status 1); 2 restarts in a row made no checkpoint, so none follows"


def test_a_new_checkpoint_resets_the_count(supervise: Supervise) -> None:
    body = "(run / 'checkpoints' / f'step-{number:06d}').mkdir(); sys.exit(1 if number < 5 else 0)"
    status, lines, calls = supervise(body, count=1)
    assert (status, len(calls)) == (0, 5)
    assert lines[-1] == "restart 1 of 1: the run failed (status 1); goes on from the checkpoint of step 4 in 0 s"


def test_wrong_settings_are_not_tried_again(supervise: Supervise) -> None:
    status, lines, calls = supervise("sys.exit(2)")
    assert (status, lines, len(calls)) == (2, [], 1)


def test_a_refusal_of_settings_that_were_accepted_before_is_tried_again(supervise: Supervise) -> None:
    status, lines, calls = supervise("sys.exit({1: 1, 2: 2, 3: 2}.get(number, 0))")
    assert (status, len(calls)) == (0, 4)
    assert lines[1:] == [
        f"restart {number} of 3: the run was refused (status 2); goes on from the start in 0 s" for number in (2, 3)
    ]


def test_refusals_without_a_checkpoint_end_as_failures_do(supervise: Supervise) -> None:
    status, lines, calls = supervise("sys.exit(1 if number == 1 else 2)", count=2)
    assert (status, len(calls)) == (2, 3)
    assert lines[-1] == "the run was refused (status 2); 2 restarts in a row made no checkpoint, so none follows"


def test_a_run_that_made_a_checkpoint_was_accepted_though_it_ends_with_a_refusal(supervise: Supervise) -> None:
    body = "(run / 'checkpoints' / 'step-000001').mkdir(exist_ok=True); sys.exit(2 if number == 1 else 0)"
    status, lines, calls = supervise(body)
    assert (status, len(calls)) == (0, 2)
    assert lines == [
        "restart 1 of 3: the run was refused (status 2); goes on from the checkpoint of step 1 in 0 s",
    ]


def test_the_wait_before_a_restart_doubles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "breadth.py").write_text("raise SystemExit(1)")
    monkeypatch.setattr(restarts, "ROOT", tmp_path)
    lines: list[str] = []
    supervisor = Supervisor([], tmp_path / "run", 3, lines.append)
    monkeypatch.setattr(supervisor, "_sleep", lambda seconds: True)
    assert supervisor.run() == 1
    assert [line.rpartition(" in ")[2] for line in lines[:3]] == ["5 s", "10 s", "20 s"]


SUPERVISE = """
import sys, pathlib
from orchestrator.recovery import restarts
restarts.ROOT = pathlib.Path(sys.argv[1])
sys.exit(restarts.Supervisor(["name=run"], restarts.ROOT / "run", 3, print).run())
"""
STOPS = """
def stop(received, frame):
    (folder / "signals").open("a").write(signal.Signals(received).name + chr(10))
    sys.exit(0)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
(folder / "ready").touch()
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("sent", "received"),
    [(signal.SIGINT, "SIGINT"), (signal.SIGTERM, "SIGTERM"), (signal.SIGKILL, "SIGTERM")],
)
def test_a_signal_to_the_supervisor_reaches_the_run_once(tmp_path: Path, sent: signal.Signals, received: str) -> None:
    (tmp_path / "breadth.py").write_text(PROGRAM.format(folder=str(tmp_path), body=STOPS))
    process = subprocess.Popen([sys.executable, "-c", SUPERVISE, str(tmp_path)], cwd=ROOT)
    until = time.monotonic() + 30
    while not (tmp_path / "ready").exists() and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(process.pid, sent)
    assert process.wait(timeout=30) == (0 if sent != signal.SIGKILL else -9)
    while not (tmp_path / "signals").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert (tmp_path / "signals").read_text() == f"{received}\n"
