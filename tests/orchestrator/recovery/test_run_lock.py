"""The lock of a run directory."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.recovery import run_lock
from orchestrator.recovery.run_lock import LOCK, Held, RunLock, require_free

ROOT = Path(__file__).resolve().parents[3]
HOLD = """
import sys, time
from pathlib import Path
from orchestrator.recovery.run_lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_with_who_holds_the_run_and_takes_over_when_it_is_killed(tmp_path: Path) -> None:
    other = holder(tmp_path)
    try:
        with pytest.raises(Held, match=rf"^name: .* process {other.pid} on \S+ has held since \d{{4}}-"):
            RunLock(tmp_path).__enter__()
        with pytest.raises(Held, match=f"process {other.pid} "):
            require_free(tmp_path)
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    require_free(tmp_path)
    with RunLock(tmp_path) as lock:
        lock.check()
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()
    assert (tmp_path / LOCK).read_text() == ""


def test_two_runs_of_one_process_do_not_hold_one_directory(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        with pytest.raises(Held):
            RunLock(tmp_path).__enter__()
        with pytest.raises(Held):
            require_free(tmp_path)
    with RunLock(tmp_path):
        pass


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks, with quick heartbeats."""
    monkeypatch.setattr(run_lock.fcntl, "flock", lambda *arguments: (_ for _ in ()).throw(OSError(38, "no locks")))
    monkeypatch.setattr(run_lock, "BEAT_S", 0.05)


def test_a_run_on_another_host_is_refused_while_its_heartbeat_changes(tmp_path: Path, no_locks: None) -> None:
    with RunLock(tmp_path, host="a"), pytest.raises(Held, match="on a has held since"):
        RunLock(tmp_path, host="b", silence_s=5.0).__enter__()


def test_a_run_of_a_dead_host_is_taken_over_after_the_silence(tmp_path: Path, no_locks: None) -> None:
    (tmp_path / LOCK).write_text('{"host": "a", "pid": 1, "since": "2026-01-01 00:00:00 UTC", "beat": 7}\n')
    began = time.monotonic()
    with RunLock(tmp_path, host="b", silence_s=0.3) as lock:
        assert time.monotonic() - began >= 0.3
        lock.check()


def test_a_holder_that_was_silent_for_too_long_learns_that_it_lost_the_run(tmp_path: Path, no_locks: None) -> None:
    with RunLock(tmp_path, host="a") as first:
        (tmp_path / LOCK).write_text('{"host": "b", "pid": 2, "since": "2026-01-01 00:00:00 UTC", "beat": 0}\n')
        until = time.monotonic() + 10
        while time.monotonic() < until and not first._lost:
            time.sleep(0.02)
        with pytest.raises(RuntimeError, match="taken over: which process 2 on b"):
            first.check()
    assert '"b"' in (tmp_path / LOCK).read_text(), "the lock of the other one stays"


def test_a_line_that_is_half_written_names_nobody(tmp_path: Path, no_locks: None) -> None:
    (tmp_path / LOCK).write_text('{"host": "a", "pi')
    with RunLock(tmp_path, host="b", silence_s=5.0):
        pass
