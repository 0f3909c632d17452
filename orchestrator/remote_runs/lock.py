"""The lock of a run in its remote place: at most one process trains a run that is copied there.

A store has no locks. So the holder writes a record with a heartbeat there, and another process takes the run only when
the record has not changed for `SILENCE_S`. If two take it at once, the record of the last one stays: each reads it
before it writes again, so the other one learns that it has lost the run. No clocks of two machines are compared.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from configs.config import Config
from orchestrator.recovery.run_lock import LOCK, Held, RunLock, record_in, words
from orchestrator.remote_runs.place import setting_of
from orchestrator.remote_runs.store import Store, StoreError

BEAT_S = 10.0
"""Seconds between two heartbeats."""
END_S = 20.0
"""Longest wait at the end for a heartbeat that is being written."""
SILENCE_S = 60.0
"""Seconds without a heartbeat after which the holder counts as dead, and copies nothing before it has written one."""


class RunLocks:
    """Holds the directory of a run and, if it is copied to a remote place, this place. Use as a context manager.

    Args:
        log: is called with each line for the user.
    """

    def __init__(self, cfg: Config, log: Callable[[str], None]) -> None:
        self.local = RunLock(Path(cfg.runs) / cfg.name)
        self.remote = None
        if cfg.mirror:
            store = Store(f"{cfg.mirror}/{cfg.name}", setting_of(cfg.runs, cfg.mirror))
            self.remote = RemoteLock(store, log)
        self._held = contextlib.ExitStack()

    def __enter__(self) -> "RunLocks":
        with contextlib.ExitStack() as held:
            held.enter_context(self.local)
            if self.remote is not None:
                held.enter_context(self.remote)
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def check(self) -> None:
        """Raise RuntimeError if another process has taken the run."""
        self.local.check()
        if self.remote is not None:
            self.remote.check()


class RemoteLock:
    """Holds the remote place of a run for this process. Use as a context manager, around all that is copied there.

    Args:
        log: is called with the line that says for what this process waits.

    Raises:
        Held: another process holds it; the message says which, and since when.
        ValueError: the place cannot be read or written.
    """

    def __init__(self, store: Store, log: Callable[[str], None]) -> None:
        self.store, self.log, self.lost = store, log, ""
        """Who has taken the run; empty: it is held."""
        self._record: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            "beat": 0,
            "token": secrets.token_hex(8),
        }
        self._renewed = time.monotonic()
        self._ending = threading.Event()
        self._heart = threading.Thread(target=self._run, name="remote lock", daemon=True)

    def __enter__(self) -> "RemoteLock":
        try:
            holder = self._read()
            if holder is not None and (other := self._changed(holder)):
                raise Held(f"name: must be a run that no process holds, got {self.store.url}, {words(other)}")
            self._write()
        except StoreError as error:
            rule = "must be a place that this user can read and write"
            raise ValueError(f"{self.store.setting}: {rule}, got {self.store.url!r}: {error}") from None
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._heart.join(timeout=END_S)  # a store that does not answer may hold it
        if not self._heart.is_alive() and not self.lost:
            with contextlib.suppress(StoreError):
                self.store.remove(LOCK)

    def check(self) -> None:
        """Raise RuntimeError if another process has taken the run: this one was silent for too long."""
        if self.lost:
            raise RuntimeError(f"the run {self.store.url} was taken over: {self.lost}")

    def require_fresh(self) -> None:
        """Raise StoreError unless nobody can have taken the run: the last heartbeat was written a moment ago."""
        silent_s = time.monotonic() - self._renewed
        if self.lost or silent_s > SILENCE_S / 2:
            raise StoreError(self.lost or f"the lock of the run could not be renewed for {silent_s:.0f} s")

    def _run(self) -> None:
        while not self.lost and not self._ending.wait(BEAT_S):
            with contextlib.suppress(StoreError):  # it is tried again; the others see no heartbeat meanwhile
                self._beat()

    def _beat(self) -> None:
        """Write a heartbeat, unless another process has taken the run."""
        holder = self._read()
        gone = holder is None and time.monotonic() - self._renewed > SILENCE_S  # another one has held it, and ended
        if gone or (holder and holder["token"] != self._record["token"]):
            self.lost = words(holder or {})
            return
        self._record["beat"] += 1
        self._write()

    def _write(self) -> None:
        began = time.monotonic()
        self.store.write(LOCK, json.dumps(self._record).encode() + b"\n")
        self._renewed = began

    def _read(self) -> dict[str, Any] | None:
        """Return the record of the holder; empty if there is a part of one, None if there is none."""
        try:
            return record_in(self.store.read(LOCK), "token")
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def _changed(self, holder: dict[str, Any]) -> dict[str, Any]:
        """Return the record of another process whose heartbeat changes within `SILENCE_S`; empty if none does."""
        self.log(f"waiting {SILENCE_S:.0f} s for a heartbeat in {self.store.url}, {words(holder)}")
        until = time.monotonic() + SILENCE_S
        while time.monotonic() < until:
            time.sleep(BEAT_S / 5)
            found = self._read()
            if found is None:
                break
            if found and found != holder:
                return found
        return {}
