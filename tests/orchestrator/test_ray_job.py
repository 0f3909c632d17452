"""Training and evaluation as jobs submitted to a real local head node.

A file of its own: the clusters of other tests are gone when its head node starts.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.watch.logbook import read_records

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "task.heldout_prompts=4",
    "monitor.every=0",
    "evaluate.answers=4",
    "evaluate.ks=[1,4]",
    "groups_per_step=4",
    "sampling.group_size=4",
)
BREADTH = str(Path(sys.executable).parent / "breadth")
PORTS = ("--port=0", "--dashboard-port=8299", "--dashboard-agent-listen-port=8298")
"""Not Ray's defaults: another cluster on this machine may use those."""


@pytest.fixture(scope="module")
def head_node() -> Iterator[str]:
    """The address of the dashboard of a real local head node, to which jobs are submitted."""
    folder = Path(sys.executable).parent
    # Ray records its clusters in this folder, and its sockets are there: their path must be short.
    scratch = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": scratch}
    start = [folder / "ray", "start", "--head", "--block", "--num-cpus=4", *PORTS]
    head = subprocess.Popen(start, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = "http://127.0.0.1:8299"
    try:
        _wait_for_the_job_agent(address)
        yield address
    finally:
        head.terminate()  # ends the processes of this cluster only
        head.wait(timeout=60)
        shutil.rmtree(scratch, ignore_errors=True)


def _wait_for_the_job_agent(address: str) -> None:
    """Submit an empty job until it is accepted: the job agent starts some seconds after the head node."""
    body = json.dumps({"entrypoint": "true"}).encode()
    request = urllib.request.Request(f"{address}/api/jobs/", body, {"Content-Type": "application/json"})
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60):
                return
        except OSError as error:
            assert time.monotonic() < deadline, error
        time.sleep(0.5)


def submit(
    address: str, home: Path, *words: str, command: tuple[str, ...] = (BREADTH,), folder: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Submit `command` with `words` and the working directory `folder`, and wait for its end."""
    ray_command = str(Path(sys.executable).parent / "ray")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_AUTH_MODE": "disabled"}
    runtime = json.dumps(
        {"env_vars": {"HOME": str(home), "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"} | variables}
    )
    line = [ray_command, "job", "submit", "--address", address, "--working-dir", "."]
    return subprocess.run(
        [*line, "--runtime-env-json", runtime, "--", *command, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )


def test_training_and_evaluation_run_as_submitted_ray_jobs_and_their_files_survive(
    tmp_path: Path, head_node: str
) -> None:
    done = submit(head_node, tmp_path, "train", *SMALL, "name=job", "steps=2")
    assert done.returncode == 0, done.stdout + done.stderr
    run_dir = tmp_path / "runs" / "job"
    assert str(run_dir) in done.stdout, "a relative runs directory counts from the home directory in a job"
    assert [record["step"] for record in read_records(run_dir / "metrics.jsonl")] == [1, 2]
    # The training job has shown that vLLM starts in a job.
    done = submit(head_node, tmp_path, "evaluate", "job", "generator.engine=transformers", "evaluate.name=first")
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((run_dir / "evaluations" / "first" / "results.json").read_text())
    assert list(results["policies"]) == ["base", "job"]


def test_a_job_whose_working_directory_has_files_with_the_names_of_breadths_packages_trains(
    tmp_path: Path, head_node: str
) -> None:
    folder, home = tmp_path / "work", tmp_path / "home"
    for package in ("configs", "actors"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text("raise RuntimeError('not this one')\n")
    (folder / "tasks.py").write_text("raise RuntimeError('not this one')\n")
    (folder / "marking.py").write_text("def mark(text):\n    return float(sum(map(ord, text)) % 2)\n")
    reward = "def odd(answer, problem):\n    return marking.mark(answer)\n"
    (folder / "rewards.py").write_text("import marking\n" + reward)
    settings = (*SMALL, "generator.engine=transformers", "name=job", "steps=1", "logbook.trajectories_every=1")
    # The working directory comes before this path.
    options: dict[str, Any] = {"command": (sys.executable, "-m", "breadth", "train"), "PYTHONPATH": str(ROOT)}
    done = submit(head_node, home, *settings, "task.verifier=rewards.py:odd", folder=folder, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    run_dir = home / "runs" / "job"
    assert [record["grader/grader_error"] for record in read_records(run_dir / "metrics.jsonl")] == [0.0]
    [verifier] = {row["verifier"] for row in read_records(run_dir / "trajectories.jsonl")}
    assert verifier.endswith("/rewards.py:odd") and Path(verifier).is_absolute()
    done = submit(head_node, home, *settings, "name=refused", "task.verifier=rewards:odd", folder=folder, **options)
    assert done.returncode != 0
    assert "name the file of your function instead, rewards.py:odd" in " ".join((done.stdout + done.stderr).split())
