"""Files of a run are broken while it does not run: a resume uses what is whole, says so, and the ledger stays whole."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.recovery.run_lock import RunLock
from tests.faults.subject import Subject

WORDS = ("placement.kind=in_process",)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a run of 4 steps, with checkpoints of steps 2 and 4."""
    subject = Subject(tmp_path_factory.mktemp("stopped"), WORDS)
    ended = subject.run("steps=4", "logbook.trajectories_every=1")
    assert ended.status == 0, ended.output
    subject.close()
    yield subject.run_dir


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """Change one bit in the middle of a file, as a bad disk may."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def torn(path: Path) -> None:
    """Append half a line, as a writer that is killed does."""
    with path.open("ab") as file:
        file.write(b'{"step": 5, "event": "st')


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(64))


NEWEST = "checkpoints/step-000004"
OLDER = "goes on after step 2 of 5"
SAME = "goes on after step 4 of 5"


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize(
    ("file", "fault", "message"),
    [
        (f"{NEWEST}/policy/model.safetensors", flip, rf"SHA-256 differs\); going back.*{OLDER}"),
        (f"{NEWEST}/policy/model.safetensors", cut, OLDER),
        (f"{NEWEST}/policy/model.safetensors", Path.unlink, f"is missing; going back.*{OLDER}"),
        (f"{NEWEST}/optimizer", shutil.rmtree, OLDER),
        (f"{NEWEST}/state.json", cut, OLDER),
        (f"{NEWEST}/state.json", garbage, OLDER),
        (f"{NEWEST}/manifest.json", empty, OLDER),
        (f"{NEWEST}/manifest.json", Path.unlink, OLDER),
        (f"{NEWEST}/added", garbage, OLDER),
        (NEWEST, shutil.rmtree, OLDER),
        ("metrics.jsonl", torn, SAME),
        ("trajectories.jsonl", torn, SAME),
        ("events.jsonl", torn, SAME),
        ("ledger.jsonl", torn, SAME),
        ("run.lock", garbage, SAME),
    ],
)
def test_a_run_whose_file_is_broken_goes_on(
    file: str, fault: Callable[[Path], None], message: str, stopped: Path, tmp_path: Path
) -> None:
    subject = resumed(stopped, tmp_path)
    fault(subject.run_dir / file)
    try:
        ended = subject.run("--resume")
        assert ended.status == 0, ended.output
        assert re.search(message, ended.output, re.DOTALL), ended.output
        subject.check()
    finally:
        subject.close()


def resumed(stopped: Path, folder: Path) -> Subject:
    shutil.copytree(stopped, folder / "a")
    return Subject(folder, WORDS)


@pytest.mark.slow
@pytest.mark.faults
def test_a_run_whose_checkpoints_are_all_broken_is_refused(stopped: Path, tmp_path: Path) -> None:
    subject = resumed(stopped, tmp_path)
    for path in subject.run_dir.glob("checkpoints/*/manifest.json"):
        empty(path)
    ended = subject.run("--resume")
    subject.close()
    assert ended.status == 2 and "checkpoints: at least one must be whole" in ended.output, ended.output


@pytest.mark.slow
@pytest.mark.faults
def test_a_run_without_its_ledger_goes_on_and_says_that_the_proof_is_missing(stopped: Path, tmp_path: Path) -> None:
    subject = resumed(stopped, tmp_path)
    (subject.run_dir / "ledger.jsonl").unlink()
    ended = subject.run("--resume")
    subject.close()
    assert ended.status == 0 and "the ledger lacks steps 1 to 4" in ended.output, ended.output


@pytest.mark.slow
@pytest.mark.faults
def test_a_second_resume_is_refused_at_once_with_who_holds_the_run(stopped: Path, tmp_path: Path) -> None:
    subject = resumed(stopped, tmp_path)
    with RunLock(subject.run_dir):
        ended = subject.run("--resume")
    subject.close()
    assert ended.status == 2 and f"process {os.getpid()} on " in ended.output, ended.output


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_by_itself_with_restarts(tmp_path: Path) -> None:
    subject = Subject(tmp_path, [*WORDS, "steps=40", "--restarts", "2"])
    process = subject.start()
    try:
        subject.wait_for_step(5)
        subject.kill()
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        assert "restart 1 of 2: the run was ended by SIGKILL; goes on from the checkpoint of step " in output, output
        subject.check(steps=40)
    finally:
        subject.close()
