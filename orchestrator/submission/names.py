"""Names of submitted jobs: which jobs are of a run, and the next free submission id. Importing this loads no Ray."""

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

RUN, COMMAND = "breadth_run", "breadth_command"
"""Keys of a job's metadata."""
WITHOUT_RUN = "verify"
"""The command whose jobs belong to no run: they have its name in the place of one."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
NOT_IN_ID = re.compile(r"[^A-Za-z0-9._-]+")
"""What an id does not hold: Ray's client writes ids into URLs as they are, and `a?b` would be taken for `a`."""
LONGEST_ID = 200
"""Characters of an id without its number. Ray makes a file name of it."""


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
    """Return an id that no job has had: the run's name, with the command unless that is clear, and a number from 2."""
    used = set(taken)
    name = NOT_IN_ID.sub("-", run)[:LONGEST_ID]
    base = name if command in ("train", WITHOUT_RUN) else f"{name}-{command}"
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


def chosen(jobs: Iterable[Job], name: str) -> Job:
    """Return the job with this id if it goes on, or else the job of the run that goes on, or else the last one.

    Raises:
        ValueError: as `of_run`, or several jobs of the run go on.
    """
    known = list(jobs)
    exact = [job for job in known if job.id == name and not job.ended]
    if exact:
        return exact[0]
    found = of_run(known, name)
    going = [job for job in found if not job.ended]
    if len(going) > 1:
        rule = f"must be one of the jobs of this run that go on: {', '.join(job.id for job in going)}"
        raise ValueError(f"NAME: {rule}, got {name!r}")
    return (going or found)[-1]


def check_free(jobs: Iterable[Job], run: str, command: str) -> None:
    """Raise ValueError if a job of this run and command goes on: two would write to one directory."""
    going = [job.id for job in jobs if (job.run, job.command) == (run, command) and not job.ended]
    if going and command != WITHOUT_RUN:
        raise ValueError(
            f"name: must not be that of a run whose job goes on, got {run!r}, which job {going[0]} runs. "
            f"`breadth submit --logs {going[0]}` follows it, `breadth submit --stop {going[0]}` stops it"
        )


def entrypoint(words: Sequence[str], *, sent: bool) -> str:
    """Return the shell command of a job. Breadth's own source, if it is sent, is not installed as a command."""
    return shlex.join([*(("python", "-m", "breadth") if sent else ("breadth",)), *words])
