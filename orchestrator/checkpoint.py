"""Write, verify, find and prune checkpoints. A broken one is reported and the one before it is used.

`<run>/checkpoints/step-000040/` holds `policy/` (a Hugging Face directory), `optimizer/`, `references/` if a reference
follows the policy, `config.yaml` (the settings of its steps), `state.json` (a RunState) and `manifest.json` with the
SHA-256 of every other file.
"""

import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.manifest import STATE, BrokenCheckpoint, folder_name, saved, verify, write_manifest
from orchestrator.state import RunState
from trajectories.atomic_write import remove_partial_folders, replace_folder


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint."""

    path: Path
    state: RunState

    @property
    def policy(self) -> Path:
        return self.path / "policy"


async def write(root: Path, state: RunState, save_roles: Callable[[str], Awaitable[None]]) -> Path:
    """Write the checkpoint of `state.step` under `root`, whole or not at all, and return its path.

    Args:
        save_roles: writes policy, optimizer and references to the folder given.
    """
    target = root / folder_name(state.step)
    with replace_folder(target) as folder:
        await save_roles(str(folder))
        (folder / STATE).write_text(state.to_json())
        write_manifest(folder)
    return target


def read(path: Path) -> Checkpoint:
    """Verify the checkpoint at `path` and return it.

    Raises:
        BrokenCheckpoint: a file is missing, added or changed, or the state is malformed.
    """
    verify(path)
    try:
        state = RunState.from_json((path / STATE).read_text())
    except ValueError as error:
        raise BrokenCheckpoint(f"checkpoint {path}: {STATE} is malformed: {error}") from None
    if folder_name(state.step) != path.name:
        raise BrokenCheckpoint(f"checkpoint {path}: {STATE} is that of step {state.step}")
    return Checkpoint(path, state)


def latest(root: Path, log: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest checkpoint under `root` that is not broken, or None; pass each broken one's error to `log`."""
    for path in reversed(saved(root)):
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
    if found is None and saved(root):
        raise ValueError(f"checkpoints: at least one must be whole, got only broken ones in {str(root)!r}")
    return found


def prune(root: Path, keep_last: int, best_step: int | None) -> None:
    """Remove all checkpoints but the newest `keep_last` and the best one, and the folders of killed writers."""
    kept = {path.name for path in saved(root)[-keep_last:]}
    if best_step is not None:
        kept.add(folder_name(best_step))
    for path in saved(root):
        if path.name not in kept:
            shutil.rmtree(path)
    remove_partial_folders(root, "step-*")
