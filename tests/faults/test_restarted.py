"""`breadth train --restarts 1`: the driver or a learner rank is lost, and the run goes on by itself to its end."""

import json
import os
import re
import signal
from pathlib import Path

import psutil
import pytest

from orchestrator.recovery.run_lock import LOCK
from tests.faults.program import TITLES, command_of
from tests.faults.rows import DIED, NO_ANSWER
from tests.faults.subject import Subject

STEPS = 60
IN_PROCESS = ("placement.kind=in_process",)
OVER_RAY = ("placement.kind=ray",)
TWO_RANKS = (*OVER_RAY, "placement.learners=2", "placement.cpus_per_learner=0.25")
STUCK = "the event loop of the run has not run for 8 s, so it is killed"


def processes(subject: Subject, role: str) -> list[int]:
    """Return the processes of a role of a run that goes on."""
    driver = int(json.loads((subject.run_dir / LOCK).read_text())["pid"])
    if role == "driver":
        return [driver]
    below = psutil.Process(driver).children(recursive=True)
    return sorted(each.pid for each in below if TITLES[role] in command_of(each))


@pytest.mark.parametrize(
    ("words", "role", "sent", "message"),
    [
        pytest.param(IN_PROCESS, "driver", "SIGSTOP", STUCK, marks=pytest.mark.slow),
        pytest.param(OVER_RAY, "driver", "SIGSTOP", STUCK, marks=[pytest.mark.ray, pytest.mark.faults]),
        # The other rank is in a collective operation of an update, or soon will be.
        pytest.param(TWO_RANKS, "learner", "SIGKILL", DIED, marks=[pytest.mark.ray, pytest.mark.faults]),
        pytest.param(TWO_RANKS, "learner", "SIGSTOP", NO_ANSWER, marks=[pytest.mark.ray, pytest.mark.faults]),
    ],
    ids=["driver-stopped", "driver-stopped-over-ray", "rank-killed", "rank-stopped"],
)
def test_a_run_whose_driver_or_rank_is_lost_goes_on_by_itself(
    words: tuple[str, ...], role: str, sent: str, message: str, tmp_path: Path
) -> None:
    subject = Subject(tmp_path, [*words, f"steps={STEPS}", "--restarts", "1"])
    process = subject.start()
    try:
        subject.wait_for_checkpoint()
        lost = processes(subject, role)[-1]
        os.kill(lost, signal.Signals[sent])
        output, _ = process.communicate(timeout=150)
        assert process.returncode == 0 and re.search(message, output), output
        assert "restart 1 of 1: the run " in output and "goes on from the checkpoint of step " in output, output
        subject.check(steps=STEPS)
        files = list(subject.run_dir.glob("stacks/*/*.txt"))
        if sent == "SIGSTOP":
            [of_lost] = [file.read_text() for file in files if file.name.startswith(f"{lost}-")]
            assert "it was stopped by a signal" in of_lost
            assert words == IN_PROCESS or any("GeneratorShell" in file.name for file in files), files
        else:
            assert not files
    finally:
        process.kill()
        process.wait()
        subject.close()
