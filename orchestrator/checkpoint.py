"""Write, verify, find and prune checkpoints. A broken one is reported and the one before it is used.

`<run>/checkpoints/step-000040/` holds `policy/` (a Hugging Face directory), `optimizer/`, `references/` if a reference
follows the policy, `state.json` (a RunState) and `manifest.json` with the SHA-256 of every other file.
"""

import hashlib
import json
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.state import RunState
from trajectories.atomic_write import remove_partial_folders, replace_folder

MANIFEST = "manifest.json"
STATE = "state.json"


class BrokenCheckpoint(Exception):
    """A checkpoint that differs from what was written. The message has its path and what is wrong."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint."""

    path: Path
    state: RunState

    @property
    def policy(self) -> Path:
        return self.path / "policy"


def folder_name(step: int) -> str:
    """Return the name of a step's checkpoint; names sort by step."""
    return f"step-{step:06d}"


async def write(root: Path, state: RunState, save_roles: Callable[[str], Awaitable[None]]) -> Path:
    """Write the checkpoint of `state.step` under `root`, whole or not at all, and return its path.

    Args:
        save_roles: writes policy, optimizer and references to the folder given.
    """
    target = root / folder_name(state.step)
    with replace_folder(target) as folder:
        await save_roles(str(folder))
        (folder / STATE).write_text(state.to_json())
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        digests = {str(path.relative_to(folder)): file_digest(path) for path in files}
        (folder / MANIFEST).write_text(json.dumps(digests, indent=1) + "\n")
    return target


def read(path: Path) -> Checkpoint:
    """Verify the checkpoint at `path` and return it.

    Raises:
        BrokenCheckpoint: a file is missing, added or changed, or the state is malformed.
    """
    try:
        digests = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise BrokenCheckpoint(f"checkpoint {path}: its {MANIFEST} cannot be read ({error})") from None
    if not isinstance(digests, dict) or STATE not in digests:
        raise BrokenCheckpoint(f"checkpoint {path}: its {MANIFEST} must be an object with the key {STATE}")
    present = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()} - {MANIFEST}
    for name in sorted(digests.keys() ^ present):
        raise BrokenCheckpoint(f"checkpoint {path}: {name} is {'missing' if name in digests else f'not in {MANIFEST}'}")
    for name, digest in digests.items():
        if file_digest(path / name) != digest:
            raise BrokenCheckpoint(f"checkpoint {path}: {name} is not what was written (SHA-256 differs)")
    try:
        state = RunState.from_json((path / STATE).read_text())
    except ValueError as error:
        raise BrokenCheckpoint(f"checkpoint {path}: {STATE} is malformed: {error}") from None
    if folder_name(state.step) != path.name:
        raise BrokenCheckpoint(f"checkpoint {path}: {STATE} is that of step {state.step}")
    return Checkpoint(path, state)


def latest(root: Path, log: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest checkpoint under `root` that is not broken, or None; pass each broken one's error to `log`."""
    for path in sorted(root.glob("step-*"), reverse=True):
        try:
            return read(path)
        except BrokenCheckpoint as error:
            log(f"{error}; going back to the one before it")
    return None


def find(run_dir: Path, log: Callable[[str], None]) -> Checkpoint | None:
    """Return the checkpoint to resume a run from, or None if the run ended before its first one.

    Raises:
        ValueError: there is no run in `run_dir`, or all of its checkpoints are broken.
    """
    if not run_dir.is_dir():
        raise ValueError(f"name: must be an existing run to resume, got {str(run_dir)!r}")
    root = run_dir / "checkpoints"
    found = latest(root, log)
    if found is None and any(root.glob("step-*")):
        raise ValueError(f"checkpoints: at least one must be whole, got only broken ones in {str(root)!r}")
    return found


def prune(root: Path, keep_last: int, best_step: int | None) -> None:
    """Remove all checkpoints but the newest `keep_last` and the best one, and the folders of killed writers."""
    kept = {path.name for path in sorted(root.glob("step-*"))[-keep_last:]}
    if best_step is not None:
        kept.add(folder_name(best_step))
    for path in root.glob("step-*"):
        if path.name not in kept:
            shutil.rmtree(path)
    remove_partial_folders(root, "step-*")


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(f"{path.name} {file_digest(path)}\n".encode())
    return digest.hexdigest()
