"""Copy the directory of a run to a remote store while the run goes on.

A thread of its own copies what changed every few seconds; the run waits for it at its end alone, for a limited time.
A checkpoint's manifest is copied last, so that a checkpoint with a manifest is whole. What the run removes is removed
from the store, too, unless this process never had it: another machine may have kept it.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from os import walk
from pathlib import Path

from configs.config import Config
from orchestrator.manifest import MANIFEST
from orchestrator.recovery.run_lock import LOCK
from orchestrator.remote_runs.lock import RemoteLock
from orchestrator.remote_runs.store import Store, StoreError

PERIOD_S = 10.0
"""Seconds between two passes."""
FINISH_S = 600.0
"""Longest wait at the end of a run for what is not copied yet. Below the 900 s that a stopped job has."""
GIVEN_UP_S = 10.0
"""The same, after an interruption."""
UPLOAD_SHARE = 10.0
"""A file that grows is copied again only after so many times the seconds that its last copy took."""
LARGEST_PAUSE_S = 300.0
"""Longest pause after passes that failed."""

ATTEMPTS = 3
"""Number of attempts of `copy_now`."""

Stamp = tuple[int, int]


class Mirror:
    """Copies of the files of a run.

    Args:
        only: names of folders and files of the run directory that are copied; empty: all.
    """

    def __init__(self, run_dir: Path, store: Store, only: tuple[str, ...] = ()) -> None:
        self.run_dir, self.store, self.only = run_dir, store, only
        self.failures = 0
        """Number of copies that failed."""
        self._copied: dict[str, Stamp] = {}
        self._next: dict[str, float] = {}
        """Earliest time of the next copy of a file."""

    def adopt(self) -> None:
        """Take over the checkpoints that the store has already, so that a resumed run does not copy them again."""
        with contextlib.suppress(StoreError):
            there = self.store.sizes()
            files = dict(self._files())
            for name in [name for name in files if name.endswith(f"/{MANIFEST}") and name in there]:
                if self.store.read(name) == (self.run_dir / name).read_bytes():
                    folder = name.removesuffix(MANIFEST)
                    self._copied |= {other: stamp for other, stamp in files.items() if other.startswith(folder)}

    def pending(self) -> list[str]:
        """Return the files that are not copied as they are now, in the order of copying."""
        present = dict(self._files())
        changed = [name for name, stamp in present.items() if self._copied.get(name) != stamp]
        return sorted(changed, key=lambda name: (name.endswith(f"/{MANIFEST}"), name))

    def sync(self, *, last: bool = False, ends: float | None = None) -> list[str]:
        """Copy what changed, and return the errors, by file.

        Args:
            last: copy also files that were copied a moment ago.
            ends: time (`time.monotonic`) after which no further file is begun.
        """
        errors: list[str] = []
        failed: set[str] = set()
        for name in self.pending():
            now = time.monotonic()
            if ends is not None and now > ends:
                break
            if not last and now < self._next.get(name, 0.0):
                continue
            folder = name.rpartition("/")[0]
            if name.endswith(f"/{MANIFEST}") and any(other.startswith(f"{folder}/") for other in failed):
                continue  # without its files the checkpoint is not whole
            try:
                self._copy(name, ends)
            except (StoreError, OSError) as error:
                failed.add(name)
                errors.append(f"{name}: {error}")
        errors += self._remove_gone()
        self.failures += len(errors)
        return errors

    def _copy(self, name: str, ends: float | None) -> None:
        path, began = self.run_dir / name, time.monotonic()
        stamp = _stamp(path)  # before the copy: what is written meanwhile is copied in the next pass
        if ends is None:
            self.store.put(path, name)
        else:
            self.store.put(path, name, max(ends - began, 1.0))
        self._copied[name] = stamp
        self._next[name] = time.monotonic() + UPLOAD_SHARE * (time.monotonic() - began)

    def _remove_gone(self) -> list[str]:
        """Remove from the store what was copied and is gone here. A checkpoint loses its manifest first."""
        errors = []
        gone = [name for name in self._copied if not (self.run_dir / name).exists()]
        for name in sorted(gone, key=lambda name: not name.endswith(f"/{MANIFEST}")):
            try:
                self.store.remove(name)
                del self._copied[name]
            except StoreError as error:
                errors.append(f"{name}: {error}")
        return errors

    def _files(self) -> Iterator[tuple[str, Stamp]]:
        """Yield the files that are complete. Temporary names begin with a dot."""
        for place, folders, files in walk(self.run_dir):  # which skips folders that are removed meanwhile
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            for path in (Path(place) / file for file in files if not file.startswith(".")):
                name = path.relative_to(self.run_dir).as_posix()
                if name == LOCK or (self.only and name.partition("/")[0] not in self.only):
                    continue
                with contextlib.suppress(FileNotFoundError):  # it may be removed meanwhile
                    if path.is_file() and not path.is_symlink():
                        yield name, _stamp(path)


def _stamp(path: Path) -> Stamp:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


@contextlib.asynccontextmanager
async def mirrored(
    cfg: Config,
    run_dir: Path,
    alert: Callable[[str, str], None],
    note: Callable[[str, str], None],
    lock: RemoteLock | None = None,
) -> AsyncIterator[None]:
    """Copy the run's directory to `mirror` while the block runs, and wait at its end for the last copies.

    Args:
        alert: called with title and text when copying begins to fail, or is not complete at the end.
        note: called with title and text when it works again.
        lock: of the remote place. When it is lost, nothing more is copied.
    """
    if not cfg.mirror:
        yield
        return
    copying = Copying(Mirror(run_dir, Store(f"{cfg.mirror}/{cfg.name}", "mirror")), alert, note, lock)
    copying.start()
    limit_s = FINISH_S
    try:
        yield
    except BaseException as error:
        limit_s = FINISH_S if isinstance(error, Exception) else GIVEN_UP_S
        raise
    finally:
        ending = threading.Thread(target=copying.finish, args=(limit_s,), daemon=True, name="last copies")
        ending.start()
        while ending.is_alive():  # so that a further signal ends the process at once
            await asyncio.sleep(0.05)


class Copying:
    """The thread that copies, and its alerts."""

    def __init__(
        self,
        mirror: Mirror,
        alert: Callable[[str, str], None],
        note: Callable[[str, str], None],
        lock: RemoteLock | None = None,
    ) -> None:
        self.mirror, self.alert, self.note, self.lock = mirror, alert, note, lock
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="mirror")
        self._failing = False

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        self.mirror.adopt()
        pause_s = PERIOD_S
        while not self._ends.wait(pause_s):
            failing = bool(self._pass())
            pause_s = min(2 * pause_s, LARGEST_PAUSE_S) if failing else PERIOD_S

    def _pass(self, *, last: bool = False, ends: float | None = None) -> list[str]:
        try:
            if self.lock is not None:
                self.lock.require_fresh()
            errors = self.mirror.sync(last=last, ends=ends)
        except Exception as error:  # this thread must not end silently
            errors = [f"{type(error).__name__}: {error}"]
        url = self.mirror.store.url
        if errors and not self._failing:
            text = f"{len(errors)} files could not be copied to {url}, the first: {errors[0]}"
            self.alert("mirror", f"{text}; the run goes on")
        elif self._failing and not errors:
            self.note("mirror", f"files are copied to {url} again, after {self.mirror.failures} failures")
        self._failing = bool(errors)
        return errors

    def _lost(self) -> bool:
        return self.lock is not None and bool(self.lock.lost)

    def finish(self, limit_s: float) -> None:
        """Copy what is left, for at most so many seconds, and end."""
        ends = time.monotonic() + limit_s
        self._ends.set()
        self._thread.join(limit_s)
        if not self._thread.is_alive():
            while self._pass(last=True, ends=ends) and time.monotonic() + 1.0 < ends and not self._lost():
                time.sleep(1.0)
        left = self.mirror.pending()
        if left and not self._lost():
            text = f"{len(left)} files are not in {self.mirror.store.url}: {', '.join(left[:3])}. They are in "
            self.alert("mirror", f"{text}{self.mirror.run_dir}, and a resumed run copies them")


def copy_now(run_dir: Path, url: str, only: tuple[str, ...], log: Callable[[str], None]) -> None:
    """Copy some folders of a run to its remote place, and tell the user what was copied or could not be."""
    mirror = Mirror(run_dir, Store(url, "mirror"), only)
    ends, errors = time.monotonic() + FINISH_S, []
    for _ in range(ATTEMPTS):
        errors = mirror.sync(last=True, ends=ends)
        if not errors:
            log(f"copied {', '.join(only)} to {url}")
            return
    log(f"{len(errors)} files could not be copied to {url}, the first: {errors[0]}. They are in {run_dir}")
