"""A node of a Ray cluster is lost during a run. The cluster has several nodes on this machine."""

import os
import re
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.recovery.ledger import account, read
from orchestrator.watch.logbook import read_records
from tests.faults.program import TITLES
from tests.faults.subject import Subject

pytestmark = [pytest.mark.ray, pytest.mark.faults]

ROLES = ("generator", "grader", "learner")


def roles_on(node: Any) -> list[str]:
    """Return the roles whose processes run on a node, one for each process."""
    raylet = node.all_processes["raylet"][0].process.pid
    found = [each.info for each in psutil.process_iter(["ppid", "cmdline"]) if each.info["ppid"] == raylet]
    commands = [" ".join(info["cmdline"] or ()) for info in found]
    return [role for role in ROLES for command in commands if command.startswith(TITLES[role])]


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
        lost = roles_on(nodes[1])
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
        assert any(re.search(f"{role} 0.* (its process died|was lost)", output) for role in lost), (lost, output)
        assert account(read(subject.run_dir), ended=False).problems == []
        cluster.add_node(num_cpus=4)
        assert process.wait(timeout=150) == 0, "".join(lines)
        reading.join(10)
        subject.check(steps=40)
    finally:
        subject.close()


def test_a_run_goes_on_without_the_generator_of_a_lost_node_and_takes_it_back_when_there_is_room_again(
    cluster: Any, tmp_path: Path
) -> None:
    cluster.add_node(num_cpus=3)
    node = cluster.add_node(num_cpus=1)  # one generator, and nothing else that a run cannot lose
    where = {"RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "disabled"}
    room = ("placement.generators=2", "placement.cpus_per_learner=1.5", "placement.start_timeout_s=45")
    # Ray reports the end of a node, so no limit on a call has to find it.
    limits = ("placement.call_timeout_s=60", "placement.publish_timeout_s=60", "generator.timeout_s=60")
    words = ["placement.kind=ray", "steps=100000", "logbook.console=false", *room, *limits]
    subject = Subject(tmp_path, words, where)
    process = subject.start()
    try:
        subject.wait_for_step(1, timeout_s=120)
        assert roles_on(node) == ["generator"]
        cluster.remove_node(node, allow_graceful=False)
        subject.wait_for_event("is left out", timeout_s=150)
        cluster.add_node(num_cpus=1)
        subject.wait_for_event("is back", timeout_s=150)
        back_at = read_records(subject.run_dir / "metrics.jsonl")[-1]["step"]
        subject.wait_for_step(back_at + 2)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=90)
        assert process.returncode == 0, output[-3000:]
        last = read_records(subject.run_dir / "metrics.jsonl")[-1]
        assert (last["restarts/generator"], last["restarts/generator/absent"]) == (1, 0)
        subject.check(steps=last["step"])
    finally:
        subject.close()
