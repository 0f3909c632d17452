"""A run that goes on, as a job that watches it reads it: from its directory, or from its copy in a remote store."""

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from actors.background import in_own_thread
from orchestrator.manifest import MANIFEST, SETTINGS, BrokenCheckpoint, file_digest, hold_policy, saved
from orchestrator.remote_runs.fetch import CHECKPOINTS, fetch_file, whole_checkpoints
from orchestrator.remote_runs.store import Store, StoreError
from orchestrator.watch.logbook import EVENTS, METRICS

SETTING = "evaluate.watch"
RECORDS = (SETTINGS, EVENTS, METRICS)
REMOVED = "it was removed while it was copied"
RETRY_S = 5.0
"""Seconds before a store that did not answer is asked again."""


class WatchedRun:
    """A run whose directory is on this machine."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.records = run_dir
        """Folder with the settings, events and metrics of the run."""

    async def look(self) -> None:
        """Read what is new of the run."""

    def checkpoints(self) -> list[Path]:
        """Return the directories in the run of the checkpoints that are whole, the newest last."""
        return [path for path in saved(self.run_dir / CHECKPOINTS) if (path / MANIFEST).is_file()]

    async def hold(self, checkpoint: Path, copy: Path) -> str:
        """Copy the policy of a checkpoint into the folder `copy`. Returns the reason if this is impossible, or ""."""
        return "" if await asyncio.to_thread(hold_policy, checkpoint, copy) else REMOVED


class RemoteRun(WatchedRun):
    """A run whose directory is copied to a remote store.

    The local directory of the run is only a name here: it may be that of the run itself, on this machine. Each
    checkpoint is fetched when it is held, its policy alone.

    Args:
        run_dir: local directory of the run.
        folder: of the records and copies that are fetched.
        patience_s: longest time for which a store that does not answer is asked for a checkpoint.
        log: called with each line of text for the user.
    """

    def __init__(self, url: str, run_dir: Path, folder: Path, patience_s: float, log: Callable[[str], None]) -> None:
        super().__init__(run_dir)
        self.records = folder
        self.patience_s, self.log = patience_s, log
        self._store = Store(url, SETTING)
        self._names: list[str] = []
        self._fetched: dict[str, int] = {}
        """Bytes of each record in the store when it was fetched."""
        self._failing = False

    async def look(self) -> None:
        """Fetch the records if they have changed, and list the checkpoints. Nothing changes if the store fails."""
        try:
            sizes = await in_own_thread(self._store.sizes)
            records = {name: sizes[name] for name in RECORDS if name in sizes}
            if records != self._fetched:
                for name in records:
                    await in_own_thread(self._store.get, name, self.records / name)
            self._names, self._fetched, self._failing = whole_checkpoints(sizes), records, False
        except StoreError as error:
            self._tell(error)

    def checkpoints(self) -> list[Path]:
        return [self.run_dir / CHECKPOINTS / name for name in self._names]

    async def hold(self, checkpoint: Path, copy: Path) -> str:
        """Fetch the policy of a checkpoint.

        Raises:
            ValueError: the store did not answer for `patience_s`.
        """
        ends = time.monotonic() + self.patience_s
        while True:
            try:
                await in_own_thread(_fetch_policy, self._store, checkpoint.name, copy)
                return ""
            except BrokenCheckpoint as error:
                return str(error)
            except StoreError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    return REMOVED
                if time.monotonic() > ends:
                    rule = f"must be a place that can be read, got {self._store.url!r}"
                    raise ValueError(f"{SETTING}: {rule}: {error}") from None
                self._tell(error)
            await asyncio.sleep(min(RETRY_S, self.patience_s))

    def _tell(self, error: StoreError) -> None:
        """Tell the user once that the store fails, until it answers again."""
        if not self._failing:
            self.log(f"watch: {self._store.url} does not answer, and is asked again: {error}")
        self._failing = True


def _fetch_policy(store: Store, checkpoint: str, folder: Path) -> None:
    """Fetch the policy of the checkpoint of this name into a folder, which is replaced, and verify its hashes.

    Raises:
        StoreError: the store does not answer, or has removed the checkpoint.
        BrokenCheckpoint: a file differs from the manifest.
    """
    shutil.rmtree(folder, ignore_errors=True)
    place = f"{CHECKPOINTS}{checkpoint}"
    try:
        digests = dict(json.loads(store.read(f"{place}/{MANIFEST}")))
    except (ValueError, TypeError) as error:
        raise BrokenCheckpoint(f"{store.url}/{place}: its {MANIFEST} cannot be read ({error})") from None
    for name in (name for name in digests if name.startswith("policy/")):
        if file_digest(fetch_file(store, f"{place}/policy/", name.removeprefix("policy/"), folder)) != digests[name]:
            raise BrokenCheckpoint(f"{store.url}/{place}: {name} is not what was written (SHA-256 differs)")
