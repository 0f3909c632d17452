"""Write and read a dictionary of tensors as one file per learner rank (torch.distributed.checkpoint)."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException


def write_shards(folder: Path, state: dict[str, Any], *, sharded: bool) -> None:
    """Write `state` to `folder`. Every rank must call it.

    Args:
        sharded: whether the ranks are in a process group.
    """
    with _single_process_allowed(sharded):
        dcp.save(state, checkpoint_id=folder, no_dist=not sharded)


def read_shards(folder: Path, state: dict[str, Any], *, sharded: bool) -> None:
    """Read the entries of `state` from `folder` into its tensors, possibly on another number of ranks.

    Raises:
        ValueError: the folder lacks an entry, or has it in another shape.
    """
    with _single_process_allowed(sharded):
        try:
            dcp.load(state, checkpoint_id=folder, no_dist=not sharded)
        except CheckpointException as error:  # a BaseException, so nothing above would catch it
            reasons = "; ".join(dict.fromkeys(str(failure) for failure, _ in error.failures.values()))
            rule = "must be of a learner with the same value heads (objective.advantage, objective.critic.heads)"
            raise ValueError(f"checkpoint {folder.parent}: {rule}, got: {reasons}") from None


def holds(folder: Path, entry: str) -> bool:
    """Return whether `folder` has an entry of this name, or entries below it."""
    names = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    return any(name == entry or name.startswith(f"{entry}.") for name in names)


@contextlib.contextmanager
def _single_process_allowed(sharded: bool) -> Iterator[None]:
    """Suppress torch's warning that a checkpoint is written without a process group, which is intended here."""
    with warnings.catch_warnings():
        if not sharded:
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
