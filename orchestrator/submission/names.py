"""Names of submitted jobs: which jobs are of a run, and the next free submission id. Importing this loads no Ray."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

RUN, COMMAND = "breadth_run", "breadth_command"
"""Keys of a job's metadata."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class Job:
    """What a cluster says of a job."""

    id: str
    status: str
    entrypoint: str = ""
    run: str = ""
    """Name of the run, for a job that `breadth submit` sent."""
    command: str = ""
    message: str = ""
    start: float = 0.0
    """Seconds since 1970, as `end`; 0 before it."""
    end: float = 0.0
    exit_code: int | None = None
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        return self.status in ENDED


def submission_id(run: str, command: str, taken: Iterable[str]) -> str:
    """Return an id that no job has had: the run's name, with the command unless it is `train`, and a number from 2."""
    used = set(taken)
    base = run if command == "train" else f"{run}-{command}"
    number, found = 1, base
    while found in used:
        number += 1
        found = f"{base}-{number}"
    return found


def of_run(jobs: Iterable[Job], name: str) -> list[Job]:
    """Return the jobs of a run, or else the one with this id, oldest first.

    Raises:
        ValueError: there is none.
    """
    known = sorted(jobs, key=lambda job: job.start or float("inf"))
    found = [job for job in known if job.run == name] or [job for job in known if job.id == name]
    if not found:
        names = ", ".join(dict.fromkeys(job.id for job in known if job.run)) or "none"
        raise ValueError(f"NAME: must be a run or a job of this cluster ({names}), got {name!r}")
    return found


def newest(jobs: Iterable[Job], name: str) -> Job:
    """Return the job of a run that goes on, or else its last one. Raises as `of_run`."""
    found = of_run(jobs, name)
    return next((job for job in reversed(found) if not job.ended), found[-1])


def check_free(jobs: Iterable[Job], run: str, command: str) -> None:
    """Raise ValueError if a job of this run and command goes on: two would write to one directory."""
    going = [job.id for job in jobs if (job.run, job.command) == (run, command) and not job.ended]
    if going:
        raise ValueError(
            f"name: must not be that of a run whose job goes on, got {run!r}, which job {going[0]} runs. "
            f"`breadth submit --logs {going[0]}` follows it, `breadth submit --stop {going[0]}` stops it"
        )


def entrypoint(words: Sequence[str], *, sent: bool) -> str:
    """Return the shell command of a job. Breadth's own source, if it is sent, is not installed as a command."""
    return shlex.join([*(("python", "-m", "breadth") if sent else ("breadth",)), *words])
