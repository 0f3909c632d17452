"""End processes of this machine for certain, also those that are stopped and answer nobody."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil

GRACE_S = 20.0
"""Seconds in which the processes that a killed one has started may end by themselves."""


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


def end_with_children(process: int) -> None:
    """Kill a process of this machine, and then those that it has started and that have not ended within `GRACE_S`.

    The sweeper of the process (`scratch.py`) cleans up in that time.
    """
    started: list[tuple[int, str]] = []
    with suppress(psutil.Error):
        started = [(child.pid, _began(child.pid)) for child in psutil.Process(process).children(recursive=True)]
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)

    def left() -> list[int]:
        return [child for child, began in started if began and _began(child) == began]

    until = time.monotonic() + GRACE_S
    while left() and time.monotonic() < until:
        time.sleep(0.05)
    for child in left():
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def _began(process: int) -> str:
    """Return when a process began, in clock ticks since the machine's start; empty if there is none."""
    try:
        state, *_, began = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:20]
    except OSError:
        return ""
    return "" if state == "Z" else began
