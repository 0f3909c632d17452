"""The box in which a level is tried: it runs the Python source that it reads from its first descriptor.

It is confined before it does, unless the source speaks of `confine` and so sees to that itself.
"""

import contextlib
import ctypes
import importlib
import os
import socket
import threading
from collections.abc import Callable

SOURCE_LIMIT = 65_536
"""Bytes of source, the most a pipe holds."""


def main(descriptors: list[int], confine: Callable[[], None]) -> None:
    source = os.read(descriptors[0], SOURCE_LIMIT)
    if b"confine" not in source:
        confine()
    exec(source.decode(), {"descriptors": descriptors, "confine": confine, "problems": problems})


def problems(confine: Callable[[], None], level: int) -> str:
    """Confine this process and say what is not as the level has it: what works and must not, what must and does not."""
    outside = os.getppid()
    try:
        confine()
    except OSError as error:
        return str(error)
    refused: dict[str, Callable[[], object]] = {
        "a process can be started": os.fork,
        "a socket can be made": socket.socket,
        "a program can be run": lambda: os.execv("/proc/self/exe", ["python"]),
        "a file can be made outside /tmp": lambda: os.open("/box", os.O_CREAT | os.O_WRONLY),
        "the machine's settings can be read": lambda: os.listdir("/etc/ssl"),
        "processes can be looked at": lambda: os.listdir("/proc/1"),
        "another process can be signalled": lambda: os.kill(outside or -1, 0),
    }
    found = [words for words, attempt in refused.items() if level > 1 and _succeeds(attempt)]
    needed: dict[str, Callable[[], object]] = {
        "no thread can be started": lambda: threading.Thread(target=int).start(),
        "no module can be imported": lambda: importlib.import_module("colorsys"),
        "no library can be loaded": lambda: ctypes.CDLL(None),
        "no random bytes can be read": lambda: os.close(os.open("/dev/urandom", os.O_RDONLY)),
    }
    if level == 3:
        needed["no file can be made in /tmp"] = lambda: os.close(os.open("/tmp/box", os.O_CREAT | os.O_WRONLY))
    return "; ".join([*found, *(words for words, attempt in needed.items() if not _succeeds(attempt))])


def _succeeds(attempt: Callable[[], object]) -> bool:
    with contextlib.suppress(Exception):
        if attempt() == 0 and attempt is os.fork:
            os._exit(0)
        return True
    return False
