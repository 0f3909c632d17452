"""Names, files and digests of checkpoints. Importing this loads no torch, so that a command can read them at once."""

import hashlib
import json
import os
import shutil
from pathlib import Path

MANIFEST = "manifest.json"
STATE = "state.json"
SETTINGS = "config.yaml"
"""File with the settings of a run, in its directory and in each of its checkpoints."""


class BrokenCheckpoint(Exception):
    """A checkpoint that differs from what was written. The message has its path and what is wrong."""


def folder_name(step: int) -> str:
    """Return the name of a step's checkpoint; names sort by step."""
    return f"step-{step:06d}"


def step_of(path: Path) -> int:
    """Return the step of a checkpoint from its name."""
    return int(path.name.removeprefix("step-"))


def saved(root: Path) -> list[Path]:
    """Return the checkpoints below `root`, the newest last. They may be broken."""
    return sorted(path for path in root.glob("step-*") if path.name.removeprefix("step-").isdecimal())


def hold_policy(checkpoint: Path, copy: Path) -> bool:
    """Link the files of a checkpoint's policy into the folder `copy`, or copy them where the file system has no links.

    Returns:
        Whether they were all there: a run that goes on may remove a checkpoint at any time. If not, `copy` is removed.
    """
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    try:
        named = [name for name in json.loads((checkpoint / MANIFEST).read_text()) if name.startswith("policy/")]
        for file in named:
            target = copy / file.removeprefix("policy/")
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(checkpoint / file, target)
            except FileNotFoundError:
                raise
            except OSError:
                shutil.copy2(checkpoint / file, target)
    except (FileNotFoundError, NotADirectoryError):
        shutil.rmtree(copy, ignore_errors=True)
        return False
    return True


def write_manifest(folder: Path) -> None:
    """Write the SHA-256 of every file in `folder` to its manifest."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    digests = {str(path.relative_to(folder)): file_digest(path) for path in files}
    (folder / MANIFEST).write_text(json.dumps(digests, indent=1) + "\n")


def verify(path: Path) -> None:
    """Compare the files of the checkpoint at `path` with its manifest.

    Raises:
        BrokenCheckpoint: a file is missing, added or changed.
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
