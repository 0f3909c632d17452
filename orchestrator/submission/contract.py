"""What a cluster can do for `breadth submit`. Importing this loads no Ray."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from orchestrator.submission.names import Job


class Cluster(Protocol):
    """A cluster to which jobs are submitted. Raises ValueError for every fault of the cluster or of its address."""

    address: str
    version: str
    """Of Ray, on the cluster."""

    def resources(self) -> dict[str, float]:
        """Return CPUs and GPUs of all nodes that are up; empty if the cluster does not tell."""

    def upload(self, package: Path) -> str:
        """Store a zip file, unless the cluster has it, and return its URI."""

    def store(self, key: str, value: bytes) -> None:
        """Store a value in the cluster's key-value store, from which only code that runs on it can read."""

    def submit(self, job_id: str, entrypoint: str, runtime: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
        """Submit a job."""

    def jobs(self) -> list[Job]:
        """Return all jobs of the cluster, also those that ended."""

    def job(self, job_id: str) -> Job:
        """Return one job."""

    def stop(self, job_id: str) -> None:
        """Ask a job to end: SIGTERM, and SIGKILL after its variable RAY_JOB_STOP_WAIT_TIME_S."""

    def output(self, job_id: str) -> str:
        """Return all output of a job so far."""

    def tail(self, job_id: str) -> AsyncIterator[str]:
        """Yield all output of a job from its beginning, until the job ends."""
