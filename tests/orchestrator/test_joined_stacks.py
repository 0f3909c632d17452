"""The stacks of a run whose roles are in a cluster that it has joined, on the driver's machine and on another node."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.program import find
from tests.faults.subject import Subject

pytestmark = pytest.mark.ray

ROLES = ("generator", "grader", "learner")


@pytest.fixture(params=["on the driver's machine", "on another node"])
def cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head with room for the roles, or one without it beside a node that has some."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    scratch = tempfile.mkdtemp(prefix="n", dir="/tmp")  # the path of its sockets must be short
    monkeypatch.setenv("RAY_TMPDIR", scratch)
    far = request.param == "on another node"
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0 if far else 4, "include_dashboard": False})
    nodes.far = far
    try:
        if far:
            nodes.add_node(num_cpus=4)
        yield nodes
    finally:
        nodes.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def test_when_a_generator_is_stopped_the_stacks_of_all_roles_are_written(cluster: Any, tmp_path: Any) -> None:
    where = {"RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "disabled"}
    subject = Subject(tmp_path, ["placement.kind=ray", "steps=20"], where)
    process = subject.start()
    try:
        subject.wait_for_step(2)
        pids = {role: find(role) for role in ROLES}
        os.kill(pids["generator"], signal.SIGSTOP)
        output, _ = process.communicate(timeout=150)
        assert process.returncode == 0 and "generator 0 is back" in output, output
        [folder] = (subject.run_dir / "stacks").iterdir()
        if cluster.far:
            texts = {role: (folder / f"{role}_0.txt").read_text() for role in ROLES}
            assert texts["generator"] == "its stacks could not be read\n"
        else:
            texts = {role: next(folder.glob(f"{pid}-*.txt")).read_text() for role, pid in pids.items()}
            assert "it was stopped by a signal" in texts["generator"]
        for role in ("grader", "learner") if cluster.far else ROLES:
            assert str(pids[role]) in texts[role] and "default_worker.py" in texts[role], texts[role]
    finally:
        process.kill()
        process.wait()
        subject.close()
