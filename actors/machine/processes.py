"""End a process of this machine for certain, also one that is stopped and answers nobody."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path


def identity() -> tuple[int, str]:
    """Return the id of this process, and when it began."""
    return os.getpid(), _began(os.getpid())


def end_process(process: int, began: str) -> None:
    """End a process of this machine at once, also a stopped one, and return when it is gone.

    Args:
        process, began: its `identity`. Nothing is done to a later process of the same id.
    """
    while _began(process) == began:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


def _began(process: int) -> str:
    """Return when a process began, in clock ticks since the machine's start; empty if there is none."""
    try:
        state, *_, began = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:20]
    except OSError:
        return ""
    return "" if state == "Z" else began
