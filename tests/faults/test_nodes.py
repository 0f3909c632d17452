"""A node of a Ray cluster is lost during a run. The cluster has several nodes on this machine."""

import os
import shutil
import tempfile
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


def test_a_run_that_loses_a_node_ends_with_the_role_and_goes_on_where_there_is_room(
    cluster: Any, tmp_path: Path
) -> None:
    nodes = [cluster.add_node(num_cpus=4) for _ in range(2)]
    where = {"RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "disabled"}
    # Two cores for each role, so that they do not fit on one node, and none of a lost one finds room on the other.
    cores = [f"placement.cpus_per_{role}=2" for role in ("generator", "learner", "grader")]
    subject = Subject(tmp_path, ["placement.kind=ray", "steps=40", "placement.start_timeout_s=60", *cores], where)
    process = subject.start()
    try:
        subject.wait_for_step(3, timeout_s=120)
        cluster.remove_node(nodes[1], allow_graceful=False)
        output, _ = process.communicate(timeout=150)
        assert process.returncode == 1, output
        assert "breadth: " in output and "Traceback" not in output, output
        assert os.path.isdir(subject.run_dir / "failures")
        cluster.add_node(num_cpus=4)
        again = subject.run("--resume", bound_s=150)
        assert again.status == 0, again.output
        subject.check(steps=40)
    finally:
        subject.close()
