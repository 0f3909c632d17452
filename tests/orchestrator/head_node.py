"""A Ray cluster on this machine that requires a token, to which jobs are submitted: a head node, and further ones."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BINARIES = Path(sys.executable).parent
LIMIT_S = 120.0
"""Longest wait for a node."""
OWN = ("PYTHONPATH", "HF_HUB_OFFLINE", "HF_HOME")
"""Variables of the tests that the nodes do not have."""


@dataclass
class HeadNode:
    """A cluster, and the environment of a user of this machine who has its token."""

    address: str
    """Of the dashboard."""
    gcs: str
    """Address at which further nodes join."""
    scratch: Path
    """Home directory of the nodes and of the user. Ray's sockets and logs are below it."""
    token: str
    nodes: dict[str, str]
    """Environment of the nodes."""
    environment: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def ask(self, path: str, value: Any = None) -> Any:
        """Return the answer of the dashboard to a GET request or, with a value, to a POST request."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        body = None if value is None else json.dumps(value).encode()
        request = urllib.request.Request(f"{self.address}{path}", body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def start(self, cpus: int, *options: str, **variables: str) -> None:
        """Start a node, which its `options` make the head or let join, and wait until jobs can run on it."""
        known = len(self.processes)
        command = [BINARIES / "ray", "start", "--block", f"--num-cpus={cpus}", *options]
        command.append(f"--dashboard-agent-listen-port={free_port()}")
        process = subprocess.Popen(
            command,
            cwd=self.scratch,
            env=self.nodes | variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.processes.append(process)
        if not known:  # the job agent of the head starts some seconds after the node
            _wait(lambda: self.ask("/api/jobs/", {"entrypoint": "true"}), process)
        _wait(lambda: len(self.alive()) > known, process)

    def join(self, cpus: int, **variables: str) -> None:
        """Start a further node, with variables of its own."""
        # Two nodes would remove each other's working directories of jobs from one folder.
        folder = self.scratch / f"node{len(self.processes)}"
        # Only a head looks for a token without this mode.
        self.start(cpus, f"--address={self.gcs}", f"--temp-dir={folder}", RAY_AUTH_MODE="token", **variables)

    def alive(self) -> list[Any]:
        """Return what the dashboard shows of the nodes that are up."""
        nodes = self.ask("/nodes?view=summary")["data"]["summary"]
        return [node for node in nodes if node.get("raylet", {}).get("state") == "ALIVE"]

    def breadth_submit(self, folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `breadth submit` in a folder, as the user."""
        command = [sys.executable, "-m", "breadth", "submit", *words]
        return self.run(command, folder, self.environment | variables, 300)

    def ray(self, folder: Path, *words: str, limit_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run Ray's own client in a folder, as the user."""
        command = [str(BINARIES / "ray"), *words]
        return self.run(command, folder, self.environment | {"RAY_AUTH_MODE": "token"}, limit_s)

    def run(
        self, command: list[str], folder: Path, environment: dict[str, str], limit_s: float
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=limit_s)


@contextmanager
def head_node(token: str, cpus: int, **variables: str) -> Iterator[HeadNode]:
    """Start a head node, and end it and all nodes that joined it.

    Args:
        token: that the cluster requires.
        variables: of the environment of all nodes. Breadth is on no path of theirs.
    """
    scratch = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # the path of Ray's sockets must be short
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") and name not in OWN}
    plain |= {"HOME": str(scratch), "PATH": f"{BINARIES}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    (scratch / ".ray").mkdir()
    (scratch / ".ray" / "auth_token").write_text(token)
    dashboard, gcs = free_port(), free_port()
    root = str(Path(__file__).resolve().parents[2])
    address = f"http://127.0.0.1:{dashboard}"
    user = plain | {"PYTHONPATH": root, "RAY_ADDRESS": address}
    nodes = plain | {"RAY_TMPDIR": str(scratch), "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1", **variables}
    head = HeadNode(address, f"127.0.0.1:{gcs}", scratch, token, nodes, user)
    try:
        head.start(cpus, "--head", f"--port={gcs}", f"--dashboard-port={dashboard}")
        head.gcs = f"{head.alive()[0]['raylet']['nodeManagerAddress']}:{gcs}"
        yield head
    finally:
        for process in reversed(head.processes):
            process.terminate()  # ends the processes of this node only
        for process in head.processes:
            process.wait(timeout=60)
        shutil.rmtree(scratch, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _wait(ready: Callable[[], Any], process: subprocess.Popen[bytes]) -> None:
    """Wait until a question has an answer that is true."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            if ready():
                return
            error: Exception | None = None
        except OSError as refused:
            error = refused
        assert time.monotonic() < deadline and process.poll() is None, error
        time.sleep(0.5)
