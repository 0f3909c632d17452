"""Read from /proc which processes descend from which, and how long a process waited for a processor."""

import contextlib
import os
from pathlib import Path


def children(parent: int) -> list[int]:
    """Return the ids of the direct children of a process."""
    return _children_by_parent().get(parent, [])


def descendants(ancestor: int) -> list[int]:
    """Return the ids of every process below `ancestor`, parents before children."""
    children_of = _children_by_parent()
    found: list[int] = []
    at_depth = [ancestor]
    while at_depth:
        at_depth = [child for parent in at_depth for child in children_of.get(parent, [])]
        found += at_depth
    return found


def starved_seconds(process: int) -> float:
    """Return the seconds that threads of a process were ready to run but waited for a processor, summed over threads.

    The result is 0.0 if the kernel does not measure it.
    """
    nanoseconds = 0
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{process}/task"):
            with contextlib.suppress(OSError):
                # Fields of schedstat: nanoseconds on a processor, nanoseconds waiting for one, number of time slices.
                nanoseconds += int(Path(f"/proc/{process}/task/{thread}/schedstat").read_bytes().split()[1])
    return nanoseconds / 1e9


def _children_by_parent() -> dict[int, list[int]]:
    """Return the children of every process that has any."""
    children_of: dict[int, list[int]] = {}
    for process in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        with contextlib.suppress(OSError):
            # Format: "number (name) state parent ..."; the name may contain blanks and parentheses.
            parent = int(Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[1])
            children_of.setdefault(parent, []).append(process)
    return children_of
