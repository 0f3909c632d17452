"""What the kernel tells of processes: who descends from whom, and how long one waited for a processor."""

import contextlib
import os
from pathlib import Path


def children(parent: int) -> list[int]:
    """The processes whose parent is this one."""
    return _families().get(parent, [])


def descendants(ancestor: int) -> list[int]:
    """Every process below `ancestor`, parents before children."""
    families = _families()
    found: list[int] = []
    generation = [ancestor]
    while generation:
        generation = [child for parent in generation for child in families.get(parent, [])]
        found += generation
    return found


def starved_seconds(process: int) -> float:
    """Seconds in which threads of a process could have run and had no processor; 0.0 where nobody counts them."""
    nanoseconds = 0
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{process}/task"):
            with contextlib.suppress(OSError):
                # "time on a processor, time in the queue of one, turns"
                nanoseconds += int(Path(f"/proc/{process}/task/{thread}/schedstat").read_bytes().split()[1])
    return nanoseconds / 1e9


def _families() -> dict[int, list[int]]:
    """The children of every process that has some."""
    families: dict[int, list[int]] = {}
    for process in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        with contextlib.suppress(OSError):
            # "number (name) state parent ..."; the name may hold blanks and parentheses.
            parent = int(Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[1])
            families.setdefault(parent, []).append(process)
    return families
