"""Checkpoints: written aside, hashed, renamed; a broken one is named and the one before it is used.

`<run>/checkpoints/step-000040/` holds `policy/` (a Hugging Face directory), `optimizer/`, `state.json` and
`manifest.json` with the SHA-256 of every other file.
"""

import hashlib
import json
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trajectories.atomic_write import remove_partial_folders, replace_folder

MANIFEST = "manifest.json"
STATE = "state.json"


class BrokenCheckpoint(Exception):
    """A checkpoint that is not what was written; the message names it and what is wrong."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint that was found whole."""

    path: Path
    state: dict[str, Any]

    @property
    def policy(self) -> Path:
        return self.path / "policy"


def folder_name(step: int) -> str:
    return f"step-{step:06d}"


async def write(
    root: Path, step: int, save_learner: Callable[[str], Awaitable[None]], state: Mapping[str, Any]
) -> Path:
    """Write a checkpoint of `step` under `root`; it appears whole or not at all."""
    target = root / folder_name(step)
    with replace_folder(target) as folder:
        await save_learner(str(folder))
        (folder / STATE).write_text(json.dumps(state, indent=1) + "\n")
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        digests = {str(path.relative_to(folder)): _digest(path) for path in files}
        (folder / MANIFEST).write_text(json.dumps(digests, indent=1) + "\n")
    return target


def read(path: Path) -> Checkpoint:
    """The checkpoint at `path`; raises BrokenCheckpoint when a file is missing, added or changed."""
    try:
        digests = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise BrokenCheckpoint(f"checkpoint {path}: its {MANIFEST} cannot be read ({error})") from None
    if not isinstance(digests, dict) or STATE not in digests:
        raise BrokenCheckpoint(f"checkpoint {path}: its {MANIFEST} is not one of ours (it must list {STATE})")
    present = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()} - {MANIFEST}
    for name in sorted(digests.keys() ^ present):
        raise BrokenCheckpoint(f"checkpoint {path}: {name} is {'missing' if name in digests else 'not its own'}")
    for name, digest in digests.items():
        if _digest(path / name) != digest:
            raise BrokenCheckpoint(f"checkpoint {path}: {name} is not what was written (SHA-256 differs)")
    return Checkpoint(path, json.loads((path / STATE).read_text()))


def latest(root: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint under `root`. Every broken one on the way is named through `say`."""
    for path in sorted(root.glob("step-*"), reverse=True):
        try:
            return read(path)
        except BrokenCheckpoint as error:
            say(f"{error}; going back to the one before it")
    return None


def prune(root: Path, keep_last: int, best_step: int | None) -> None:
    """Remove all but the newest `keep_last` checkpoints and the best one, and what a killed writer left."""
    kept = {path.name for path in sorted(root.glob("step-*"))[-keep_last:]}
    if best_step is not None:
        kept.add(folder_name(best_step))
    for path in root.glob("step-*"):
        if path.name not in kept:
            shutil.rmtree(path)
    remove_partial_folders(root, "step-*")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find(run_dir: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint of a run, None when it was killed before its first. Raises ValueError when there is
    no run, or every checkpoint is broken."""
    if not run_dir.is_dir():
        raise ValueError(f"name: must be an existing run to resume, got {str(run_dir)!r}")
    root = run_dir / "checkpoints"
    found = latest(root, say)
    if found is None and any(root.glob("step-*")):
        raise ValueError(f"checkpoints: at least one must be whole, got only broken ones in {str(root)!r}")
    return found
