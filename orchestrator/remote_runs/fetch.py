"""Fetch a run from a remote store into its local folder: its records, and the checkpoints that are needed."""

import json
from collections.abc import Callable
from pathlib import Path

from orchestrator.manifest import MANIFEST, SETTINGS, STATE, BrokenCheckpoint, folder_name, saved, step_of, verify
from orchestrator.recovery.run_lock import LOCK
from orchestrator.remote_runs.place import is_url, split_run, work_folder
from orchestrator.remote_runs.store import Store, StoreError
from trajectories.atomic_write import replace_folder

CHECKPOINTS = "checkpoints/"
METRICS = "metrics.jsonl"
ALWAYS = 2**20
"""A file of fewer bytes is fetched in any case; a larger one if its size differs."""


def fetch_run(
    url: str,
    log: Callable[[str], None],
    *,
    checkpoint: str = "",
    folder: Path | None = None,
    setting: str = "RUN",
) -> Path:
    """Return the local directory of a remote run, with its records as they are in the store.

    A local directory that is ahead of the store, as after a crash on this machine, is left as it is, also if nothing
    was copied yet.

    Args:
        checkpoint: which one is needed, too: "last" (the newest whole one), "best", the name of one; empty: none.
        folder: of the runs of this place; None: the work folder of the place.

    Raises:
        ValueError: there is no such run, or the store does not answer.
    """
    place, name = split_run(url)
    run_dir = (folder or work_folder(place)) / name
    store = Store(url, setting)
    try:
        sizes = store.sizes()
        if SETTINGS not in sizes and not (run_dir / SETTINGS).is_file():
            raise ValueError(f"{setting}: must be a run with a {SETTINGS}, got {url!r}, which has none")
        if not _is_ahead(run_dir, sizes):
            _fetch_records(store, sizes, run_dir)
        if checkpoint:
            _fetch_checkpoint(store, sizes, run_dir, checkpoint, log)
    except StoreError as error:
        raise ValueError(f"{setting}: must be a place that can be read, got {url!r}: {error}") from None
    return run_dir


def local_run(run: str, log: Callable[[str], None], *, checkpoint: str = "") -> Path:
    """Return the directory of a run named by a path or a URL; a remote run is fetched. Raises as `fetch_run`."""
    return fetch_run(run, log, checkpoint=checkpoint) if is_url(run) else Path(run)


def has_run(url: str, setting: str) -> bool:
    """Return whether a run has begun in the store: it has a record of a step, or a checkpoint."""
    try:
        sizes = Store(url, setting).sizes()
    except StoreError as error:
        raise ValueError(f"{setting}: must be a place that can be read, got {url!r}: {error}") from None
    return sizes.get(METRICS, 0) > 0 or bool(whole_checkpoints(sizes))


def whole_checkpoints(sizes: dict[str, int]) -> list[str]:
    """Return the names of the checkpoints of the store that were copied to their end, oldest first."""
    names = [name.split("/")[1] for name in sizes if name.startswith(CHECKPOINTS) and name.endswith(f"/{MANIFEST}")]
    return sorted(name for name in names if name.removeprefix("step-").isdecimal())


def _is_ahead(run_dir: Path, sizes: dict[str, int]) -> bool:
    """Return whether the local directory has all that the store has of the run, and perhaps more."""
    if not (run_dir / SETTINGS).is_file():
        return False
    here = max((step_of(path) for path in saved(run_dir / CHECKPOINTS)), default=-1)
    there = max((step_of(Path(name)) for name in whole_checkpoints(sizes)), default=-1)
    metrics = run_dir / METRICS
    return here >= there and (metrics.stat().st_size if metrics.is_file() else 0) >= sizes.get(METRICS, 0)


def _fetch_records(store: Store, sizes: dict[str, int], run_dir: Path) -> None:
    for name, size in sizes.items():
        path = run_dir / name
        if name.startswith(CHECKPOINTS) or name == LOCK or not path.resolve().is_relative_to(run_dir.resolve()):
            continue
        if size < ALWAYS or not path.is_file() or path.stat().st_size != size:
            store.get(name, path)


def _fetch_checkpoint(
    store: Store, sizes: dict[str, int], run_dir: Path, which: str, log: Callable[[str], None]
) -> None:
    """Fetch a checkpoint and verify its hashes. A broken newest one is passed over, as in a local run."""
    whole = whole_checkpoints(sizes)
    if which == "best":
        which = _best(store, whole)
    elif which.isdigit():
        which = folder_name(int(which))
    for name in reversed(whole) if which == "last" else [which] if which in whole else []:
        local = run_dir / CHECKPOINTS / name
        try:
            if local.is_dir() and _is_whole(local):
                return
            log(f"fetching checkpoint {name} from {store.url}")
            with replace_folder(local) as partial:
                prefix = f"{CHECKPOINTS}{name}/"
                for file in (file for file in sizes if file.startswith(prefix)):
                    fetch_file(store, prefix, file.removeprefix(prefix), partial)
                verify(partial)
            return
        except BrokenCheckpoint as error:
            log(f"{error}; going back to the one before it")


def fetch_file(store: Store, prefix: str, name: str, folder: Path) -> Path:
    """Fetch the file `name` below the folder `prefix` of a checkpoint in the store, and return its path in `folder`.

    Raises:
        BrokenCheckpoint: its name leads out of the folder.
    """
    target = folder / name
    if not target.resolve().is_relative_to(folder.resolve()):
        raise BrokenCheckpoint(f"checkpoint {store.url}/{prefix}: has a file outside of it, {prefix + name!r}")
    store.get(f"{prefix}{name}", target)
    return target


def _is_whole(checkpoint: Path) -> bool:
    try:
        verify(checkpoint)
    except BrokenCheckpoint:
        return False  # That of the store may be whole.
    return True


def _best(store: Store, whole: list[str]) -> str:
    """Return the name of the best checkpoint that the newest one records; that of the newest one if it records none."""
    for name in reversed(whole):
        try:
            best = json.loads(store.read(f"{CHECKPOINTS}{name}/{STATE}")).get("best")
            return folder_name(int(best["step"])) if best else name
        except (ValueError, KeyError, TypeError, AttributeError):  # a state that is broken
            continue
    return "last"
