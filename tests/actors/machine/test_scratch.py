"""The temporary folder of a run, and the sweeper that removes it."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest

from actors.machine import scratch

ROOT = Path(__file__).resolve().parents[3]
OWNER = """
import subprocess, sys, tempfile, time
from actors.machine import scratch
folder = scratch.make()
sweeper = scratch.start_sweeper(folder)
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
tempfile.mkdtemp(prefix="pymp-")
print(folder, child.pid, flush=True)
if sys.argv[1] == "end":
    scratch.end(sweeper, 10.0)
else:
    time.sleep(60)
"""


def owner(tmp: Path, how: str) -> tuple["subprocess.Popen[str]", Path, int]:
    environment = os.environ | {"TMPDIR": str(tmp)}
    command = [sys.executable, "-c", OWNER, how]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    folder, pid = process.stdout.readline().split()
    return process, Path(folder), int(pid)


def gone(pid: int, folder: Path, within_s: float) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if not Path(f"/proc/{pid}").exists() and not folder.exists():
            return True
        time.sleep(0.05)
    return False


def test_the_folder_and_what_still_uses_it_end_with_the_owner(tmp_path: Path) -> None:
    process, folder, child = owner(tmp_path, "end")
    assert process.wait(timeout=30) == 0
    assert gone(child, folder, 1.0)


def test_the_shared_memory_of_vllm_ends_with_the_owner_and_no_other_does(tmp_path: Path) -> None:
    names = [f"vllm_dist_{uuid.uuid4().hex}" for _ in range(2)]
    left, other = (scratch.SHARED_MEMORY / f"{name}-tp:0-[0-1]-cpushm_0" for name in names)
    process, folder, child = owner(tmp_path, "wait")
    try:
        (folder / names[0]).touch()
        left.touch()
        other.touch()
        process.kill()
        process.wait()
        assert gone(child, folder, scratch.GRACE_S + 10)
        assert not left.exists() and other.exists()
    finally:
        left.unlink(missing_ok=True)
        other.unlink(missing_ok=True)


def test_they_end_when_the_owner_is_killed(tmp_path: Path) -> None:
    process, folder, child = owner(tmp_path, "wait")
    assert folder.is_dir() and any(folder.glob("pymp-*"))
    process.kill()
    process.wait()
    assert gone(child, folder, scratch.GRACE_S + 10)


def test_the_next_owner_cleans_up_when_the_sweeper_was_killed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, folder, child = owner(tmp_path, "wait")
    mark = str(folder).encode()
    sweepers = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal() and mark in (entry / "cmdline").read_bytes().split(b"\0")
    ]
    for pid in (*sweepers, process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(folder.parent))
    scratch.sweep_dead()
    assert gone(child, folder, 30.0)


def test_the_folder_of_a_living_owner_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process, folder, child = owner(tmp_path, "wait")
    try:
        monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(folder.parent))
        scratch.sweep_dead()
        assert folder.is_dir() and Path(f"/proc/{child}").exists()
    finally:
        process.kill()
        process.wait()
        assert gone(child, folder, scratch.GRACE_S + 10)


def test_a_process_with_a_title_of_ray_uses_the_folder_if_it_has_a_file_there_open(tmp_path: Path) -> None:
    folder = tmp_path / "breadth-1-1"
    folder.mkdir()
    processes = []
    # Ray's titles are written over the environment, which leaves none. A reader of a log is no process of the run.
    for title, place in (("ray::Learner", folder), ("ray::Learner", tmp_path), ("tail", folder)):
        with (place / "log").open("w") as log:
            processes.append(subprocess.Popen([title, "60"], executable="/bin/sleep", env={}, stdout=log))
    inside, *others = processes
    try:
        assert list(scratch.processes(folder)) == [inside.pid]
        assert scratch.sweep(folder, 0.0) == [inside.pid]
        assert inside.wait(timeout=10) == -signal.SIGKILL and [other.poll() for other in others] == [None, None]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_the_owner_of_a_folder_is_not_swept(tmp_path: Path) -> None:
    process, folder, child = owner(tmp_path, "wait")
    try:
        assert child in scratch.processes(folder) and process.pid not in scratch.processes(folder)
    finally:
        process.kill()
        process.wait()
    assert gone(child, folder, within_s=2 * scratch.GRACE_S + 10)


ACTOR = """
import time
from actors.machine import scratch
scratch.make_for_actor()
scratch.make_for_actor()
print(scratch.os.environ[scratch.SCRATCH], flush=True)
time.sleep(60)
"""


def test_the_folder_of_an_actor_of_a_joined_cluster_ends_with_its_process_without_a_word(tmp_path: Path) -> None:
    plain = {name: value for name, value in os.environ.items() if name != scratch.SCRATCH}
    process = subprocess.Popen(
        [sys.executable, "-c", ACTOR],
        env=plain | {"TMPDIR": str(tmp_path), "RAY_JOB_ID": "01000000"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    try:
        assert folder.is_dir() and str(process.pid) in folder.name
        assert not psutil.Process(process.pid).children(), "Ray would kill the sweeper with them"
    finally:
        process.kill()
    assert process.communicate(timeout=10)[0] == ""
    assert gone(process.pid, folder, scratch.GRACE_S + 10)
