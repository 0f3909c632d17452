"""The seconds of computation of a run's processes, and the costs of a machine from them."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.plan_check import FITTED, HELD_OUT, SETTINGS, TOGETHER, computation, of_steps
from configs.load import load

PROGRAM = """
import subprocess, sys, time
spin = "import time\\nwhile True:\\n sum(range(10_000))"
child = subprocess.Popen(["ray::LearnerShell.call", "-c", spin], executable=sys.executable)
for line in range(12):
    time.sleep(0.1)
    print("row", file=open(sys.argv[1], "a"))
child.kill()
"""


@pytest.mark.timed
def test_the_computation_of_a_run_is_counted_by_role(tmp_path: Path) -> None:
    driver = psutil.Popen([sys.executable, "-c", PROGRAM, str(tmp_path / "metrics.jsonl")], stdout=subprocess.DEVNULL)
    found = computation(driver, tmp_path / "metrics.jsonl", 12)
    assert driver.wait() == 0
    assert found["learner"] > 2 * found["driver"]
    assert set(found) == {"driver", "learner"}


def test_a_run_that_ends_early_has_no_computation(tmp_path: Path) -> None:
    driver = psutil.Popen([sys.executable, "-c", ""])
    assert computation(driver, tmp_path / "metrics.jsonl", 12) == {}
    driver.wait()


def test_only_the_answers_of_the_last_step_are_recorded_and_all_of_them() -> None:
    for groups, *_ in (*FITTED, *TOGETHER, *HELD_OUT):
        cfg = load([*SETTINGS, *of_steps(16), f"groups_per_step={groups}"])
        assert [step for step in range(1, 17) if step % cfg.logbook.trajectories_every == 0] == [16]
        assert groups * cfg.sampling.group_size <= cfg.logbook.trajectories


def test_no_measured_step_that_is_compared_was_fitted() -> None:
    assert not {*FITTED, *TOGETHER} & {*HELD_OUT}
    assert {groups for groups, *_ in TOGETHER} <= {groups for groups, *_ in FITTED}
