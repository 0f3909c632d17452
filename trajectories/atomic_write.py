"""Atomic writes: replace a file or a folder so that a crash leaves the old content or the new, never a part of it.

The new content goes to a temporary name in the same directory, is flushed to disk, and is renamed. This module lies in
the lowest layer because the rehearsal file (`trajectories.rehearsal`) and the files of the orchestrator both need it.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file to write; when the block ends, rename it to `path`.

    If the block raises, `path` stays as it was and the temporary file is removed. The temporary name is always the
    same, so the next write replaces what a killed process left.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    flush(path.parent)


@contextlib.contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Create a temporary folder to fill; when the block ends, rename it to `path`.

    If the block raises, `path` stays as it was and the temporary folder stays for `remove_partial_folders`.
    """
    partial = partial_folder(path)
    yield partial
    finish_folder(partial, path)


def partial_folder(path: Path) -> Path:
    """Create the empty temporary folder whose content is to become that of `path`.

    Its name holds the process id, since other processes of a killed run may still be writing to its temporary folder.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def finish_folder(partial: Path, path: Path) -> None:
    """Flush the temporary folder to disk and rename it to `path`, in place of what is there."""
    for written in [*partial.rglob("*"), partial]:
        flush(written)
    replaced = path.with_name(f".{path.name}.{os.getpid()}.replaced.partial")
    shutil.rmtree(replaced, ignore_errors=True)
    if path.exists():  # a folder that is not empty cannot be renamed over
        path.rename(replaced)
    partial.rename(path)
    flush(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def remove_partial_folders(parent: Path, pattern: str) -> None:
    """Remove the temporary folders that killed processes left in `parent` for folders whose names match `pattern`."""
    for partial in parent.glob(f".{pattern}.partial"):
        shutil.rmtree(partial)


def flush(path: Path) -> None:
    """Flush a file's content, or a directory's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
