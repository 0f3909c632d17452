"""The temporary folder of one run on one machine, and the sweeper, a small process that cleans up after the run.

Libraries leave files in the temporary folder when their process is killed: sockets, `pymp-*`, `vllm_dist_*`. So all
processes of a run on one machine share one folder, named after the process that owns it, which is removed when the
owner ends. In a cluster that the run did not start, the driver and each actor have one. The environment
variable SCRATCH names the folder in every process that the owner starts, so that they can be found again.

The sweeper waits for the owner's end, however it comes, ends the processes that are left, and removes the folder. If it
was killed too, the next run on the machine does this. This file is also the sweeper's program; it needs the standard
library alone.
"""

import contextlib
import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SCRATCH = "BREADTH_SCRATCH"
PREFIX = "breadth-"
NAMESPACE = "namespace"
"""File with the namespace of the owner's process id: in another container, the same number is another process."""
LONGEST_BASE = 24
"""Longest path, in characters, below which Ray's sockets fit into the 107 characters of a socket's address."""
GRACE_S = 5.0
"""Seconds in which processes of an owner that was killed may end by themselves."""
UNEXPECTED = (
    "breadth: the process of this command ended unexpectedly: it was killed, or Ray ended it because a process of its "
    "cluster was killed. What it left is removed.\n"
)
OF_ACTOR = "of_actor"
_sweepers: list[subprocess.Popen[bytes]] = []
"""Those whose pipe stays open until this process ends."""
KILL_S = 5.0
"""Seconds for the kernel to end a process that was killed."""
SHARED_MEMORY = Path("/dev/shm")
VLLM_GROUPS = "vllm_dist_*"
"""Files through which the processes of a vLLM engine find each other. On a CPU the names of their shared memory begin
with that of the file; processes that are killed leave both."""


def make() -> Path:
    """Create the temporary folder of this process, and make it that of all processes it starts."""
    folder = folder_of(os.getpid())
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / NAMESPACE).write_text(_namespace())
    os.environ[SCRATCH] = os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None  # it is read from TMPDIR again
    return folder


def folder_of(pid: int) -> Path:
    """Return the temporary folder of a process that has made one, if its TMPDIR was that of this process before."""
    base = tempfile.gettempdir()
    return Path(base if len(base) <= LONGEST_BASE else "/tmp") / f"{PREFIX}{pid}-{_start_time(pid)}"


def make_for_actor() -> None:
    """Make a temporary folder of its own for an actor of a cluster that the run did not start, as on other machines.

    It is removed when the actor's process has ended, however it did: Ray kills it, in whatever it does. Another actor
    uses the folder of the run.
    """
    if SCRATCH not in os.environ and "RAY_JOB_ID" in os.environ:
        sweep_dead()
        start_sweeper(make(), of_actor=True)


def start_sweeper(folder: Path, *, of_actor: bool = False) -> subprocess.Popen[bytes]:
    """Start the sweeper of a folder that this process owns.

    Args:
        of_actor: whether this process is an actor, which ends without a word. Ray kills its children before it, so the
            sweeper is none: it goes on as the child of a process that ends at once, which is returned.
    """
    environment = {name: value for name, value in os.environ.items() if name not in (SCRATCH, "TMPDIR")}
    command = [sys.executable, "-I", "-S", __file__, str(folder), *([OF_ACTOR] if of_actor else [])]
    output = subprocess.DEVNULL if of_actor else None
    # A session of its own, as Ctrl-C in a terminal goes to all processes of a session.
    sweeper = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment, start_new_session=True
    )
    if of_actor:
        _sweepers.append(sweeper)
        sweeper.wait()
    return sweeper


def end(sweeper: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Have the sweeper clean up at once, and wait for it."""
    folder = os.environ.pop(SCRATCH, "")
    for name in ("TMPDIR", "RAY_TMPDIR"):
        if os.environ.get(name) == folder:
            del os.environ[name]
    tempfile.tempdir = None
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        assert sweeper.stdin is not None
        sweeper.stdin.write(b"done\n")
        sweeper.stdin.close()
        sweeper.wait(timeout_s)


def sweep_dead() -> None:
    """Clean up after the owners on this machine that have ended, those of this user alone."""
    for base in {Path(tempfile.gettempdir()), Path("/tmp")}:
        for folder in base.glob(f"{PREFIX}*-*"):
            pid, _, started = folder.name.removeprefix(PREFIX).partition("-")
            with contextlib.suppress(OSError):
                own = folder.stat().st_uid == os.geteuid() and (folder / NAMESPACE).read_text() == _namespace()
                if own and pid.isdecimal() and _start_time(int(pid)) != started:
                    sweep(folder, grace_s=0.0)


def sweep(folder: Path, grace_s: float) -> list[int]:
    """End the processes that an owner has left, and remove its folder.

    Args:
        grace_s: seconds in which they may end by themselves.

    Returns:
        The processes that had to be killed.
    """
    until = time.monotonic() + grace_s
    while time.monotonic() < until and any(processes(folder)):
        time.sleep(0.1)
    killed: list[int] = []
    until = time.monotonic() + KILL_S
    while time.monotonic() < until and (left := list(processes(folder))):
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        killed += [pid for pid in left if pid not in killed]
        time.sleep(0.05)
    for file in folder.glob(VLLM_GROUPS):
        for memory in SHARED_MEMORY.glob(f"{glob.escape(file.name)}-*"):
            memory.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    return killed


def processes(folder: Path) -> Iterator[int]:
    """Yield the other processes of this user that use the temporary folder, but for its owner.

    They have it in their environment. Where Ray has written a title over that, they have files of the folder open.
    """
    mark = f"{SCRATCH}={folder}".encode()
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() and int(entry.name) != os.getpid() and not _owns(entry.name, folder):
            with contextlib.suppress(OSError):  # it has ended, or belongs to another user
                process = Path(entry.path)
                titled = (process / "cmdline").read_bytes().startswith(b"ray::")
                if mark in (process / "environ").read_bytes().split(b"\0") or (titled and _has_open(process, folder)):
                    yield int(entry.name)


def _owns(pid: str, folder: Path) -> bool:
    return folder.name == f"{PREFIX}{pid}-{_start_time(int(pid))}"


def _has_open(process: Path, folder: Path) -> bool:
    """Return whether a process, by its folder in /proc, has a file of the temporary folder open."""
    for file in os.scandir(process / "fd"):
        with contextlib.suppress(OSError):
            if os.readlink(file.path).startswith(f"{folder}/"):
                return True
    return False


def _namespace() -> str:
    return os.readlink("/proc/self/ns/pid")


def _start_time(pid: int) -> str:
    """Return when a process started, in clock ticks since the machine did; empty if there is none."""
    try:
        # The name of the command, in parentheses, may contain spaces.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if OF_ACTOR in sys.argv and os.fork():
        os._exit(0)
    finished = sys.stdin.buffer.read()  # until the owner ends
    if not finished:
        sys.stderr.write(UNEXPECTED)
    sweep(Path(sys.argv[1]), 0.0 if finished else GRACE_S)
