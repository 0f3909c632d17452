"""A node of a Ray cluster is lost during a run. The cluster has several nodes on this machine."""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.subject import Subject

pytestmark = [pytest.mark.ray, pytest.mark.faults]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without room for the roles, and two nodes."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    scratch = tempfile.mkdtemp(prefix="n", dir="/tmp")  # the path of its sockets must be short
    monkeypatch.setenv("RAY_TMPDIR", scratch)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield nodes
    finally:
        nodes.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def test_a_run_that_loses_a_node_goes_on_by_itself_when_there_is_room_again(cluster: Any, tmp_path: Path) -> None:
    nodes = [cluster.add_node(num_cpus=4) for _ in range(2)]
    where = {"RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "disabled"}
    # Two cores for each role, so that they do not fit on one node, and none of a lost one finds room on the other.
    cores = [f"placement.cpus_per_{role}=2" for role in ("generator", "learner", "grader")]
    words = ["placement.kind=ray", "steps=40", "placement.start_timeout_s=60", *cores, "--restarts", "5"]
    subject = Subject(tmp_path, words, where)
    process = subject.start()
    try:
        subject.wait_for_step(3, timeout_s=120)
        cluster.remove_node(nodes[1], allow_graceful=False)
        lines: list[str] = []
        reading = threading.Thread(target=lambda: [lines.append(line) for line in process.stdout or ()])
        reading.start()
        until = time.monotonic() + 180
        while not any("the run was refused (status 2)" in line for line in lines):
            assert process.poll() is None and time.monotonic() < until, "".join(lines)
            time.sleep(0.1)
        output = "".join(lines)
        assert "restart 1 of 5: the run failed (status 1); goes on from the checkpoint of step " in output, output
        assert "placement: must fit the cluster, got " in output and "Traceback" not in output, output
        assert os.path.isdir(subject.run_dir / "failures")
        cluster.add_node(num_cpus=4)
        assert process.wait(timeout=150) == 0, "".join(lines)
        reading.join(10)
        subject.check(steps=40)
    finally:
        subject.close()
