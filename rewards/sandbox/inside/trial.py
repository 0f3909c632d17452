"""The box in which an isolation level is tested: it runs Python source that it reads from its first descriptor.

The box is confined before it runs the source, unless the source contains the word `confine`: then the source confines
the box itself.
"""

import contextlib
import ctypes
import importlib
import os
import socket
import threading
from collections.abc import Callable

SOURCE_LIMIT = 65_536
"""Maximum bytes of source: the capacity of a pipe."""


def main(descriptors: list[int], confine: Callable[[], None]) -> None:
    """Read the source from the first descriptor and run it."""
    source = os.read(descriptors[0], SOURCE_LIMIT)
    if b"confine" not in source:
        confine()
    exec(source.decode(), {"descriptors": descriptors, "confine": confine, "problems": problems})


def problems(confine: Callable[[], None], level: int) -> str:
    """Confine this process, then try what the level must refuse and what it must allow.

    Returns:
        The attempts with a wrong outcome, separated by "; "; empty if the level works.
    """
    outside = os.getppid()
    try:
        confine()
    except OSError as error:
        return str(error)
    must_fail: dict[str, Callable[[], object]] = {
        "a process can be started": os.fork,
        "a socket can be made": socket.socket,
        "a program can be executed": lambda: os.execv("/proc/self/exe", ["python"]),
        "a file can be made outside /tmp": lambda: os.open("/box", os.O_CREAT | os.O_WRONLY),
        "the machine's settings in /etc can be read": lambda: os.listdir("/etc/ssl"),
        "other processes are visible in /proc": lambda: os.listdir("/proc/1"),
        "a signal can be sent to another process": lambda: os.kill(outside or -1, 0),
    }
    found = [problem for problem, attempt in must_fail.items() if level > 1 and _succeeds(attempt)]
    must_work: dict[str, Callable[[], object]] = {
        "no thread can be started": lambda: threading.Thread(target=int).start(),
        "no module can be imported": lambda: importlib.import_module("colorsys"),
        "no library can be loaded": lambda: ctypes.CDLL(None),
        "no random bytes can be read": lambda: os.close(os.open("/dev/urandom", os.O_RDONLY)),
    }
    if level == 3:
        must_work["no file can be made in /tmp"] = lambda: os.close(os.open("/tmp/box", os.O_CREAT | os.O_WRONLY))
    return "; ".join([*found, *(problem for problem, attempt in must_work.items() if not _succeeds(attempt))])


def _succeeds(attempt: Callable[[], object]) -> bool:
    with contextlib.suppress(Exception):
        if attempt() == 0 and attempt is os.fork:
            os._exit(0)
        return True
    return False
