"""What is kept of a run that failed, in `failures/TIME` of its directory: its traceback, and the logs of a Ray cluster
that it started.

The terminal shows a line or two: which role failed, why, and what to do.
"""

import contextlib
import os
import re
import shutil
import time
import traceback
from pathlib import Path

from actors.machine.scratch import SCRATCH

FAILURES = "failures"
ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("configs", "trajectories", "objectives", "rewards", "tasks", "actors", "orchestrator")
LONGEST = 400
"""Longest message on the terminal, in characters."""
LARGEST_LOG = 1_000_000
"""Bytes of the largest log that is kept."""


class Failure(Exception):
    """A run failed for a reason that its message says in a few lines; the traceback is in a file."""


def raised_by_breadth(error: Exception) -> bool:
    """Return whether this project's own code raised `error`, as it does for wrong settings and for roles that fail.

    Such an error of a library is a bug, so it is shown with its traceback.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and _is_own(Path(trace.tb_frame.f_code.co_filename))


def _is_own(file: Path) -> bool:
    """Return whether a file is one of this project, and not of a library in an environment below its folder."""
    return file.is_relative_to(ROOT) and file.relative_to(ROOT).parts[0] in ROOMS


def keep(run_dir: Path, error: BaseException) -> Path:
    """Write the traceback of a failed run to a new folder, and return the folder.

    It gets the logs of Ray too if the run has started its cluster. Those of another cluster are on its nodes.
    """
    folder = run_dir / FAILURES / f"{time.strftime('%Y-%m-%dT%H-%M-%S')}-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "traceback.txt").write_text("".join(traceback.format_exception(error)))
    for log in Path(os.environ.get(SCRATCH, "/nowhere")).glob("**/session_2*/logs/*"):
        with contextlib.suppress(OSError):
            if log.is_file() and 0 < log.stat().st_size <= LARGEST_LOG:
                shutil.copy(log, folder / log.name)
    return folder


def failure(run_dir: Path, error: Exception) -> Failure:
    """Return the failure of a run, after its traceback was kept, as far as there is room on the disk."""
    try:
        folder = keep(run_dir, error)
        kept = "traceback and the logs of Ray are" if len(list(folder.iterdir())) > 1 else "traceback is"
        place = f"The {kept} in {folder}"
    except OSError as unwritten:
        place = f"The traceback could not be written: {unwritten}"
    notes = getattr(error, "__notes__", [])
    return Failure("\n".join([short(str(error) or type(error).__name__), *notes, place]))


def short(message: str) -> str:
    """Return a message on one line: of Ray's, only the first line and how the process exited.

    Example: generator 0: its process died before collect ended: The actor died unexpectedly before finishing this task.
    (SYSTEM_ERROR, End of file.)
    """
    first = message.strip().splitlines()[0]
    found = re.search(r"Worker exit type: (\w+)\s+Worker exit detail: ([^\n]*)", message)
    if found:
        first += f" ({found[1]}: {found[2].partition(' There are some potential')[0]})"
    return first if len(first) <= LONGEST else f"{first[: LONGEST - 3]}..."
