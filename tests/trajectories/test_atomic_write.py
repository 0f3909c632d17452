"""Atomic writes: a file or a folder has its old content or its new content, whatever ends the writer."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trajectories.atomic_write import remove_partial_folders, replace_file, replace_folder

ROOT = Path(__file__).resolve().parents[2]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_has_its_old_content_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(b"old")
    with replace_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["results.json"]


def test_a_file_keeps_its_old_content_when_the_block_raises(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replace_file(path) as file:
        file.write(b"ne")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["results.json"]


def test_a_folder_has_its_old_files_until_the_block_ends_and_only_its_new_ones_after(tmp_path: Path) -> None:
    path = tmp_path / "step-1"
    for name in ("first", "second"):
        with replace_folder(path) as partial:
            (partial / "deep").mkdir()
            (partial / "deep" / name).write_text(name)
            assert not (path / "deep" / name).exists()
    assert names(path / "deep") == ["second"]
    assert names(tmp_path) == ["step-1"]


def test_a_folder_keeps_its_old_files_when_the_block_raises(tmp_path: Path) -> None:
    path = tmp_path / "step-1"
    with replace_folder(path) as partial:
        (partial / "old").touch()
    with pytest.raises(KeyboardInterrupt), replace_folder(path) as partial:
        (partial / "new").touch()
        raise KeyboardInterrupt
    assert names(path) == ["old"]
    remove_partial_folders(tmp_path, "step-*")
    assert names(tmp_path) == ["step-1"]


@pytest.mark.parametrize("writer", ["file", "folder"])
def test_content_is_on_disk_before_the_rename_and_the_directory_after_it(
    writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "target"
    flushed: list[tuple[str, bool]] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        flushed.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    if writer == "file":
        with replace_file(path) as file:
            file.write(b"x")
        content = [(".target.partial", False)]
    else:
        with replace_folder(path) as partial:
            (partial / "x").touch()
        content = [("x", False), (f".target.{os.getpid()}.partial", False)]
    assert flushed == [*content, (tmp_path.name, True)]


@pytest.mark.parametrize("writer", ["file", "folder"])
def test_a_writer_that_was_killed_leaves_the_old_content(writer: str, tmp_path: Path) -> None:
    path = tmp_path / "step-1"
    with replace_folder(path) if writer == "folder" else replace_file(path) as target:
        (target / "old").touch() if isinstance(target, Path) else target.write(b"old")
    code = (
        "import os, signal, sys; from pathlib import Path; from trajectories import atomic_write\n"
        f"with atomic_write.replace_{writer}(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert (names(path) == ["old"]) if writer == "folder" else (path.read_bytes() == b"old")
    assert len(names(tmp_path)) == 2, "the temporary file or folder is left"
    if writer == "folder":
        remove_partial_folders(tmp_path, "step-*")
    else:
        with replace_file(path) as file:
            file.write(b"new")
        assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["step-1"]
