"""Choose user ids for boxes, and check whether other users can read a directory."""

from pathlib import Path

USERS_PER_ZYGOTE = 64
RESERVED_USERS = 1024
"""The highest user ids are often in use (65534 is nobody)."""


def unused_ids(process: int) -> range:
    """Return user ids that nothing else uses, for the boxes of the zygote with process id `process`.

    The range is derived from the process id, so that each zygote has its own. It is empty if the machine or container
    has few user ids.
    """
    with open("/proc/self/uid_map") as lines:
        top = max(first + count - 1 for first, _, count in (map(int, line.split()) for line in lines))
    top = min(top, 2**31 - 1) - RESERVED_USERS
    if top < 2 * RESERVED_USERS:
        return range(0)
    first = top - USERS_PER_ZYGOTE - process * USERS_PER_ZYGOTE % (top // 2)
    return range(first, first + USERS_PER_ZYGOTE)


def can_all_read(path: str) -> bool:
    """Return whether any user can reach and read a directory."""
    real = Path(path).resolve()
    return real.stat().st_mode & 0o4 != 0 and all(above.stat().st_mode & 0o1 for above in real.parents)
