"""Commands in a cluster that they did not start: they end quietly, also when they are killed, and leave no file there.

A file of its own: the clusters of other tests are gone when its head node starts.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.manifest import saved

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "task.heldout_prompts=4", "monitor.every=0", "groups_per_step=4", "sampling.group_size=4",
    "generator.engine=transformers",
)  # fmt: skip
WAIT_S = 120.0


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("", 0))
        return int(taken.getsockname()[1])


@dataclass
class Joined:
    """A local head node, and what the temporary folder holds that its processes and those of commands share."""

    folder: Path
    environment: dict[str, str]

    def begin(self, *words: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "breadth", *words]
        return subprocess.Popen(
            command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def left(self) -> list[str]:
        """Return the names in the temporary folder that are not of Ray."""
        return [path.name for path in self.folder.iterdir() if path.name != "ray"]


@pytest.fixture(scope="module")
def joined() -> Iterator[Joined]:
    # Ray's sockets are in this folder: their path must be short.
    folder, port = Path(tempfile.mkdtemp(prefix="j", dir="/tmp")), free_port()
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "BREADTH_"))}
    outside |= {"RAY_AUTH_MODE": "disabled", "TMPDIR": str(folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [Path(sys.executable).parent / "ray", "start", "--head", "--block", "--num-cpus=4", f"--port={port}"]
    command += ["--include-dashboard=false"]
    head = subprocess.Popen(command, env=outside, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: answers(port))
        yield Joined(folder, outside | {"RAY_ADDRESS": f"127.0.0.1:{port}"})
    finally:
        head.terminate()  # ends the processes of this cluster only
        head.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(scope="module")
def run_dir(joined: Joined, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that has a checkpoint. Its driver was killed."""
    folder = tmp_path_factory.mktemp("joined") / "runs" / "killed"
    words = [*SMALL, "steps=100000", "checkpoint.every=1", "logbook.wandb=offline", f"runs={folder.parent}"]
    driver = joined.begin("train", *words, "name=killed")
    try:
        until(lambda: driver.poll() is not None or saved(folder / "checkpoints"))
        assert driver.poll() is None, driver.communicate()[0]
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.communicate(timeout=30)
    return folder


def test_a_driver_that_is_killed_leaves_no_temporary_file(joined: Joined, run_dir: Path) -> None:
    until(lambda: not joined.left())
    assert (run_dir / "wandb").is_dir(), "W&B, which has temporary files, was in use"


def test_an_evaluation_with_the_kl_to_the_base_ends_quietly_and_leaves_no_folder(joined: Joined, run_dir: Path) -> None:
    words = ["evaluate.answers=4", "evaluate.ks=[1,4]", "generator.engine=transformers", f"runs={run_dir.parent}"]
    command = joined.begin("evaluate", "killed", *words)
    output = command.communicate(timeout=300)[0]
    assert command.returncode == 0 and "score base: " in output, output
    assert "worker died" not in output and "(raylet)" not in output, output
    until(lambda: not [name for name in joined.left() if name.startswith("breadth-")])


def test_sigterm_while_the_roles_start_is_as_ctrl_c(joined: Joined, tmp_path: Path) -> None:
    command = joined.begin("train", *SMALL, f"runs={tmp_path}", "name=stopped")
    assert command.stdout is not None
    seen = []
    for line in command.stdout:
        seen.append(line)
        if line.startswith("starting ") and "generator" in line:
            command.send_signal(signal.SIGTERM)
    assert command.wait(timeout=60) == 130, seen
    assert seen[-1] == "breadth: interrupted\n" and "SIGTERM" not in "".join(seen), seen
    until(lambda: not joined.left())
