"""Jobs on a cluster of one node: the lines of docs/deployment.md as they stand there, and a run that goes on by itself.

A file of its own: the clusters of other tests are gone when its head node starts.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from head_node import HeadNode, head_node

from orchestrator.manifest import saved
from orchestrator.watch.logbook import read_records

pytestmark = pytest.mark.ray

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "deployment.md").read_text()
SMALL = "task.heldout_prompts=4 monitor.every=0 groups_per_step=4 sampling.group_size=4 generator.engine=transformers"
KEY = "fedcba9876543210-of-the-judge"
KEYED_REWARD = f"""
import hashlib, os

def exact(answer, problem):
    right = hashlib.sha256(os.environ["JUDGE_KEY"].encode()).hexdigest() == "{hashlib.sha256(KEY.encode()).hexdigest()}"
    return float(right)
"""
WAIT_S = 180.0


@pytest.fixture(scope="module")
def head() -> Iterator[HeadNode]:
    with head_node("0123456789abcdef0123456789abcdef", cpus=4) as started:
        yield started


def shell(head: HeadNode, folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of the page as the user of the cluster."""
    return head.run(["bash", "-c", line], folder, head.environment, 300)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_the_lines_of_try_it_on_one_machine_train_resume_evaluate_and_report(head: HeadNode, tmp_path: Path) -> None:
    section = PAGE.partition("## Try it on one machine")[2].partition("\n## ")[0]
    lines = re.findall(r"^breadth .*$", section, flags=re.MULTILINE)
    assert len(lines) == 7
    more = {"--detach train": f"{SMALL} steps=2", "train --resume": "steps=3"}
    more["evaluate"] = "evaluate.answers=4 evaluate.ks=[1,4] evaluate.name=first"
    printed = []
    for line in lines:
        words = [words for name, words in more.items() if line.startswith(f"breadth submit {name} ")]
        done = shell(head, tmp_path, " ".join([line, *words]))
        assert done.returncode == 0, (line, done.stdout + done.stderr)
        printed.append(done.stdout + done.stderr)
    run_dir = head.scratch / "runs" / "try"
    assert [record["step"] for record in read_records(run_dir / "metrics.jsonl")] == [1, 2, 3]
    assert "try  " in printed[1] and "job try has ended: SUCCEEDED" in printed[3]
    results = json.loads((run_dir / "evaluations" / "first" / "results.json").read_text())
    assert list(results["policies"]) == ["base", "try"] and (run_dir / "report.html").is_file()

    [line] = re.findall(r"^RAY_AUTH_MODE=.*$", PAGE, flags=re.MULTILINE)
    listed = shell(head, tmp_path, line)
    found = re.findall(r"submission_id='(.*?)'", listed.stdout + listed.stderr)
    assert listed.returncode == 0 and {"try", "try-2", "try-evaluate"} <= set(found), listed


def test_a_job_with_restarts_goes_on_after_its_run_was_killed_with_its_secret_and_can_be_stopped(
    head: HeadNode, tmp_path: Path
) -> None:
    """The restarted driver gets from the first process of the job what this one took from the store of the cluster."""
    (tmp_path / "rewards.py").write_text(KEYED_REWARD)
    words = [*SMALL.split(), "name=again", "steps=100000", f"runs={tmp_path}/runs", "checkpoint.every=1"]
    words += ["task.verifier=rewards.py:exact", "logbook.trajectories_every=1"]
    options = ("--detach", "--secret", "JUDGE_KEY", "train", "--restarts", "1")
    begun = head.breadth_submit(tmp_path, *options, *words, JUDGE_KEY=KEY)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    run_dir = tmp_path / "runs" / "again"
    until(lambda: saved(run_dir / "checkpoints"))
    os.kill(driver_in(tmp_path), signal.SIGKILL)
    steps = len(read_records(run_dir / "metrics.jsonl"))
    until(lambda: len(read_records(run_dir / "metrics.jsonl")) > steps + 2)
    stopped = head.breadth_submit(tmp_path, "--stop", "again")
    assert stopped.returncode == 0 and "ended: SUCCEEDED, exit status 0" in stopped.stderr, stopped
    logs = head.breadth_submit(tmp_path, "--logs", "again").stdout
    assert "restart 1 of 1: the run was ended by SIGKILL; goes on from the checkpoint of step" in logs, logs
    records = [record["step"] for record in read_records(run_dir / "metrics.jsonl")]
    assert records == list(range(1, len(records) + 1)) and records[-1] > steps
    rewards = {(row["step"] > steps, row["reward"]) for row in read_records(run_dir / "trajectories.jsonl")}
    assert rewards == {(False, 1.0), (True, 1.0)}, "the graders of both drivers have the key"


def driver_in(folder: Path) -> int:
    """Return the id of the process that trains, a child of the one that starts it again."""
    lines = {each.pid: each.info["cmdline"] or [] for each in psutil.process_iter(["cmdline"])}
    ours = {pid: line for pid, line in lines.items() if f"runs={folder}/runs" in line}
    [found] = [pid for pid, line in ours.items() if "breadth.py" in " ".join(line[:2]) and "--restarts" not in line]
    return found
