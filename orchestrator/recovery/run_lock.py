"""The lock of a run directory: at most one process trains a run at a time.

The lock is `flock` on `run.lock`. The kernel releases it when its process ends, however it ends, and on NFS it holds on
all hosts. Some shared file systems lock within one host only, or not at all. So the holder also writes a heartbeat into
the file, and a process on another host takes the lock only when the heartbeat has not changed for `SILENCE_S`. No
clocks of two hosts are compared.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

LOCK = "run.lock"
FIELDS = ("host", "pid", "since", "beat")
"""What the record of a holder has."""
BEAT_S = 5.0
"""Seconds between two heartbeats."""
SILENCE_S = 30.0
"""Seconds without a heartbeat after which the holder on another host counts as dead."""


class Held(ValueError):
    """Another process holds the run's directory."""


class RunLock:
    """Holds a run's directory for this process. Use as a context manager, around all that writes into the directory.

    Args:
        run_dir: an existing directory.
        host: name of this host.
        silence_s: as `SILENCE_S`.

    Raises:
        Held: another process holds the directory; the message says which, and since when.
    """

    def __init__(self, run_dir: Path, *, host: str | None = None, silence_s: float = SILENCE_S) -> None:
        self.run_dir, self.path = run_dir, run_dir / LOCK
        self.host, self.silence_s = host or socket.gethostname(), silence_s
        self._file = -1
        self._beats = 0
        self._since = time.time()
        self._ending = threading.Event()
        self._lost = ""
        self._heart = threading.Thread(target=self._beat, name="run lock", daemon=True)

    def __enter__(self) -> "RunLock":
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            locked = _flock(self._file)
            holder = _read(self._file)
            if locked is False or (holder and holder["host"] != self.host and self._changes(holder)):
                raise Held(f"name: must be a run that no process holds, got {self.run_dir}, {words(holder)}")
            self._write()
        except BaseException:
            os.close(self._file)
            raise
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._heart.join(timeout=2 * BEAT_S)  # a file system that does not answer may hold it
        if not self._lost:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
        os.close(self._file)

    def check(self) -> None:
        """Raise RuntimeError if another process has taken the lock: this one was silent for too long."""
        if self._lost:
            raise RuntimeError(f"the run directory {self.run_dir} was taken over: {self._lost}")

    def _changes(self, holder: dict[str, Any]) -> bool:
        """Return whether the heartbeat of a holder on another host changes within `silence_s`."""
        until = time.monotonic() + self.silence_s
        while time.monotonic() < until:
            time.sleep(min(1.0, self.silence_s / 10))
            # Opened anew each time: NFS checks a file for changes when it is opened.
            with contextlib.suppress(OSError):
                again = os.open(self.path, os.O_RDONLY)
                try:
                    found = _read(again)
                finally:
                    os.close(again)
                if found != holder:
                    return bool(found)
        return False

    def _write(self) -> None:
        record = {
            "host": self.host,
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self._since)),
            "beat": self._beats,
        }
        line = json.dumps(record).encode() + b"\n"
        os.pwrite(self._file, line, 0)
        os.ftruncate(self._file, len(line))

    def _beat(self) -> None:
        while not self._ending.wait(BEAT_S):
            with contextlib.suppress(OSError):  # a full disk: the others see no heartbeat, which `flock` still bounds
                holder = _read(self._file)
                if holder and (holder["host"], holder["pid"]) != (self.host, os.getpid()):
                    self._lost = words(holder)
                    return
                self._beats += 1
                self._write()


def require_free(run_dir: Path) -> None:
    """Raise Held if a process on this host, or where `flock` holds on all hosts, holds the run's directory."""
    if not (run_dir / LOCK).is_file():
        return
    file = os.open(run_dir / LOCK, os.O_RDWR | os.O_CLOEXEC)
    try:
        if _flock(file) is False:
            raise Held(f"name: must be a run that no process holds, got {run_dir}, {words(_read(file))}")
    finally:
        os.close(file)


def words(holder: dict[str, Any]) -> str:
    """Describe who holds a lock."""
    if not holder:
        return "which another process holds"
    return f"which process {holder['pid']} on {holder['host']} has held since {holder['since']}; end that one first"


def _flock(file: int) -> bool | None:
    """Take the lock. Return False if another process has it, None if the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _read(file: int) -> dict[str, Any]:
    """Return the record of the holder; empty if there is none, or a part of one."""
    return record_in(os.pread(file, 4096, 0))


def record_in(content: bytes, *further: str) -> dict[str, Any]:
    """Return the record of a holder, which has these further fields too; empty if this is none, or a part of one."""
    try:
        record = json.loads(content)
    except ValueError:
        return {}
    return record if isinstance(record, dict) and {*FIELDS, *further} <= record.keys() else {}
