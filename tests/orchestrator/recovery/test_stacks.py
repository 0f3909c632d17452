"""The stacks of a run's processes."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.machine import scratch
from actors.machine.stack_signal import stack_file
from orchestrator.recovery import stacks
from orchestrator.recovery.stacks import dump, stalled

ROOT = Path(__file__).resolve().parents[3]
CHILD = """
import time
from actors.machine.stack_signal import register
register()
def waits_for_nothing():
    print("ready", flush=True)
    time.sleep(60)
waits_for_nothing()
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    monkeypatch.setenv(scratch.SCRATCH, str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()


def text_of(run_dir: Path, pid: int) -> str:
    [file] = (run_dir / "stacks").glob(f"*/{pid}-*.txt")
    return file.read_text()


def test_the_stacks_of_this_process_and_of_all_it_started_are_written(
    tmp_path: Path, child: subprocess.Popen[str]
) -> None:
    line = asyncio.run(dump(tmp_path))
    assert line.startswith("The stacks of ") and str(tmp_path / "stacks") in line
    assert "waits_for_nothing" in text_of(tmp_path, child.pid)
    assert "state sleeping" in text_of(tmp_path, child.pid)


def test_without_py_spy_a_process_writes_its_own(
    tmp_path: Path, child: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks.shutil, "which", lambda *arguments, **options: None)
    asyncio.run(dump(tmp_path))
    assert "in waits_for_nothing" in text_of(tmp_path, child.pid)


def test_a_process_that_is_not_ended_afterwards_gets_no_signal(
    tmp_path: Path, child: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks.shutil, "which", lambda *arguments, **options: None)
    asyncio.run(dump(tmp_path, ended=()))
    assert "its stacks could not be read" in text_of(tmp_path, child.pid)
    assert stack_file(tmp_path, child.pid).read_text() == ""


def test_a_stopped_process_is_said_to_be_stopped_and_the_dump_ends(
    tmp_path: Path, child: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "ANSWER_S", 0.3)
    os.kill(child.pid, signal.SIGSTOP)
    began = time.monotonic()
    asyncio.run(dump(tmp_path))
    assert time.monotonic() - began < 30
    assert "it was stopped by a signal" in text_of(tmp_path, child.pid)


def test_an_error_of_a_wait_is_a_stall_and_another_is_none() -> None:
    assert stalled(RuntimeError("learner 0: update did not answer within 8 s"))
    assert stalled(RuntimeError("generator 0 generated no token for 8 s with work to do"))
    wrapped = RuntimeError("no answer")
    wrapped.__cause__ = TimeoutError()
    assert stalled(wrapped)
    assert not stalled(RuntimeError("learner 0: its process died before update ended"))


class Role:
    """A role whose own thread answers, or not."""

    def __init__(self, name: str, local_pid: int | None, answers: bool = True) -> None:
        self.name, self.local_pid, self.answers = name, local_pid, answers

    async def stacks(self, timeout_s: float) -> str:
        if not self.answers:
            await asyncio.sleep(timeout_s)
            raise TimeoutError
        return f"stacks of {self.name}"


def test_a_process_that_is_not_below_this_one_is_read_by_its_id_and_a_role_elsewhere_reads_its_own(
    tmp_path: Path, child: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks.psutil.Process, "children", lambda process, recursive: [])
    monkeypatch.delenv(scratch.SCRATCH)
    line = asyncio.run(dump(tmp_path, [Role("grader 0", child.pid), Role("learner 1", None)]))
    assert line.startswith("The stacks of 3 processes are in ")
    assert "waits_for_nothing" in text_of(tmp_path, child.pid)
    [file] = (tmp_path / "stacks").glob("*/learner_1.txt")
    assert file.read_text() == "stacks of learner 1"


def test_a_role_here_reads_its_own_stacks_where_py_spy_may_not_attach(
    tmp_path: Path, child: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks.shutil, "which", lambda *arguments, **options: None)
    asyncio.run(dump(tmp_path, [Role("grader 0", child.pid)]))
    assert text_of(tmp_path, child.pid).endswith("stacks of grader 0")
    assert stack_file(tmp_path, child.pid).read_text() == "", "it got no signal"


def test_roles_that_do_not_answer_are_waited_for_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "ANSWER_S", 2.0)
    monkeypatch.setattr(stacks, "LONGEST_S", 20.0)
    asyncio.run(dump(tmp_path, [Role(f"learner {rank}", None, answers=False) for rank in range(20)]))
    files = list((tmp_path / "stacks").glob("*/learner_*.txt"))
    assert [file.read_text() for file in files] == ["its stacks could not be read\n"] * 20


def test_stacks_that_take_too_long_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "LONGEST_S", 0.2)
    with pytest.raises(TimeoutError):
        asyncio.run(dump(tmp_path, [Role("learner 0", None, answers=False)]))
