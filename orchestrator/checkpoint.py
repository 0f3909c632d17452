"""Write, verify, find and prune checkpoints. A broken one is reported and the one before it is used.

`<run>/checkpoints/step-000040/` holds `policy/` (a Hugging Face directory), `optimizer/`, `adapter/` with LoRA,
`references/` if a reference follows the policy, `config.yaml` (the settings of its steps), `state.json` (a RunState)
and `manifest.json` with the SHA-256 of every other file.
"""

import asyncio
import shutil
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from actors.learning.shards import missing_ranks
from actors.policy_files.folder import INDEX, weight_files
from orchestrator.manifest import STATE, BrokenCheckpoint, folder_name, saved, verify, write_manifest
from orchestrator.state import RunState
from trajectories.atomic_write import finish_folder, partial_folder, remove_partial_folders

SEEN_S = 60.0
"""Longest wait for a file that another node has written, in seconds: a client of NFS may use what it knows of a folder
for so long."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint."""

    path: Path
    state: RunState

    @property
    def policy(self) -> Path:
        return self.path / "policy"


class Writer:
    """Writes checkpoints under `root`, whole or not at all, while training goes on. At most one is being written.

    Use as an async context manager, which waits for the last one. Nothing but the copying of state happens between two
    steps: files are written by the roles, hashed, flushed and renamed in the background, off the event loop.

    Args:
        keep_last: number of newest checkpoints that are kept, besides the best.
        failed: called with the error at once if a checkpoint cannot be written. `check`, `begin` and `finish` raise it.
    """

    def __init__(self, root: Path, keep_last: int, failed: Callable[[Exception], None]) -> None:
        self.root, self.keep_last, self.failed = root, keep_last, failed
        self._writing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Writer":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the checkpoint that is being written. On a cancellation it is given up."""
        if error is None:
            await self.finish()
        elif self._writing is not None:
            if not isinstance(error, Exception):
                self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)  # the error that ends the run is the first

    async def begin(
        self, state: RunState, save_roles: Callable[[str], Awaitable[None]], saved: Callable[[], Awaitable[None]]
    ) -> None:
        """Begin the checkpoint of `state.step`, when the one before is written. When this returns, training may go on.

        Args:
            save_roles: copies the state of policy, optimizer and references, to be written to the folder given.
            saved: returns when the files of the roles are on disk.
        """
        await self.finish()
        target = self.root / folder_name(state.step)
        partial = await asyncio.to_thread(partial_folder, target)
        await save_roles(str(partial))
        (partial / STATE).write_text(state.to_json())
        best_step = state.best.step if state.best else None
        self._writing = asyncio.create_task(self._complete(partial, target, best_step, saved))

    def check(self) -> None:
        """Raise the error of a checkpoint that could not be written."""
        if self._writing is not None and self._writing.done():
            self._writing.result()

    async def finish(self) -> None:
        """Wait for the checkpoint that is being written. Raises what writing it raised, once."""
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def _complete(
        self, partial: Path, target: Path, best_step: int | None, saved: Callable[[], Awaitable[None]]
    ) -> None:
        try:
            await saved()
            await _seen(partial)
            await asyncio.to_thread(write_manifest, partial)
            await asyncio.to_thread(finish_folder, partial, target)
            await asyncio.to_thread(prune, self.root, self.keep_last, best_step)
        except Exception as error:
            failure = RuntimeError(f"checkpoint {target} could not be written: {error}")
            self.failed(failure)
            raise failure from error


async def _seen(partial: Path) -> None:
    """Return when the files that the learner ranks have written are in the folder of a checkpoint.

    Raises:
        RuntimeError: one is not; names it. Without it the checkpoint would be taken for whole.
    """
    until = time.monotonic() + SEEN_S
    while missing := await asyncio.to_thread(_missing, partial):
        if time.monotonic() > until:
            host = socket.gethostname()
            raise RuntimeError(f"{missing} is not on {host}; all nodes must share the run directory (runs)")
        await asyncio.sleep(0.2)


def _missing(checkpoint: Path) -> str:
    """Return the name of a file of the learner ranks that a checkpoint lacks; empty if it has all."""
    ranks = [f"optimizer/{name}" for name in missing_ranks(checkpoint / "optimizer")]
    try:
        weights = [f"policy/{name}" for name in weight_files(checkpoint / "policy")]
    except ValueError:
        weights = [f"policy/{INDEX}"]
    return next((name for name in (*ranks, *weights) if not (checkpoint / name).is_file()), "")


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
