"""A cluster in memory, with the interface of a real one."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.submission.names import COMMAND, RUN, Job


@dataclass
class FakeCluster:
    """Runs each job at once: its output is `logs`, and it ends as `outcome`."""

    address: str = "http://head:8265"
    version: str = "2.60.0"
    available: dict[str, float] = field(default_factory=lambda: {"CPU": 8.0})
    logs: list[str] = field(default_factory=lambda: ["step 1\n", "step 2\n"])
    outcome: tuple[str, int | None] = ("SUCCEEDED", 0)
    known: list[Job] = field(default_factory=list)
    uploaded: list[bytes] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    submitted: list[dict[str, Any]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    obeys: bool = True
    """Whether a job ends when its stop is asked for."""
    broken_tails: int = 0
    """Number of times that the connection breaks after the first piece of output."""

    def resources(self) -> dict[str, float]:
        return self.available

    def upload(self, package: Path) -> str:
        self.uploaded.append(package.read_bytes())
        return f"gcs://_ray_pkg_{len(self.uploaded)}.zip"

    def store(self, key: str, value: bytes) -> None:
        self.stored[key] = value
        if value == b"stop" and self.obeys:
            self.outcome = ("SUCCEEDED", 0)

    def submit(self, job_id: str, entrypoint: str, runtime: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
        self.submitted.append({"id": job_id, "entrypoint": entrypoint, "runtime": runtime, "metadata": metadata})
        job = Job(
            id=job_id,
            status="RUNNING",
            entrypoint=entrypoint,
            run=metadata[RUN],
            command=metadata[COMMAND],
            start=float(len(self.known) + 1),
            variables=runtime["env_vars"],
        )
        self.known.append(job)

    def jobs(self) -> list[Job]:
        return self.known

    def job(self, job_id: str) -> Job:
        return next(job for job in self.known if job.id == job_id)

    def stop(self, job_id: str) -> None:
        self.stopped.append(job_id)
        self.outcome = ("STOPPED", None)

    def output(self, job_id: str) -> str:
        return self.logs[0]

    async def tail(self, job_id: str) -> AsyncIterator[str]:
        for text in self.logs:
            yield text
            if self.broken_tails:
                self.broken_tails -= 1
                raise ValueError("--address: the log could not be read")
        status, code = self.outcome if self.obeys or self.stopped else ("RUNNING", None)
        self.known = [
            replace(job, status=status, exit_code=code, end=job.start + 1) if job.id == job_id else job
            for job in self.known
        ]
