"""Boxes: processes in which untrusted programs run, made by a clean fork server (the zygote) that each worker has.

A program may use what `Limits` gives and the descriptors it was given. What stops it beyond that is one of three
levels, tried in a real box when a zygote starts:

- **3, namespaces.** Its own process, mount and IPC namespaces, in a network without interfaces. It sees, read-only,
  libraries, the interpreter's modules, installed packages and five devices; no /proc, no home, no data, no repository.
  /tmp (16 MB) and /dev/shm (1 MB) are empty at its start and gone at its end. The filter of level 2 besides, and
  Landlock where the kernel has it. When its first process or the zygote ends, the kernel ends all of it. Started by the
  superuser it runs as a user that exists nowhere else; by an ordinary user (through a user namespace) as that user.
- **2, without namespaces**, which containers often forbid. Landlock: reads the same files, writes none, not even in
  /tmp. The filter (`system_calls`): no new process, no program, no socket, no signal, no tracing, no change to what a
  file is. It can still learn of any path whether it exists, how large and how old it is. The number of its threads is
  limited only where it has a user of its own: started by the superuser, if all users can read the interpreter.
- **1, limits alone.** Stops accidents: loops, memory, large files. It stops no attack: a program has its user's files,
  network and processes (started by the superuser: without his capabilities, and as another user where level 2 would).
  What it started is searched for and ended with it, as long as the zygote lives.

No level stops: learning the time, the kernel's version or the machine's load; reading installed packages, so no answer
belongs in one; faults of the kernel in the calls that are left (read, map, futex, threads ...). Memory is limited per
process, not per box. A box that sleeps is ended by whoever waits for it. The filter knows x86-64 and 64-bit Arm;
elsewhere level 1 is left. Level 3 needs Linux 5.12, level 2 Linux 5.13. A zygote must start before its worker confines
itself: Landlock allows no mounts.
"""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from rewards.sandbox.process_tree import descendants, starved_seconds

LEVELS = (3, 2, 1)
START_TIMEOUT_S = 60.0
"""Bound on the start of a zygote: an interpreter and its imports on a loaded host."""
BOX_TIMEOUT_S = 20.0
"""Bound on making a box."""
KILL_TIMEOUT_S = 10.0
"""Bound on the end of a killed box, and of a zygote."""
MESSAGE_LIMIT = 65_536
"""Bytes of one message between the worker and its zygote."""
CREDENTIALS_BYTES = 12
"""Of struct ucred: process, user, group."""


class BoxFailed(Exception):
    """A box could not be made or was lost: the grader's fault, never the program's."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one box may use; a limit on a process holds for each process of the box."""

    memory_bytes: int = 2**30
    """Address space of a process."""
    cpu_seconds: int = 10
    """Of a process; past them it is killed."""
    file_bytes: int = 16 * 2**20
    """Of one file."""
    open_files: int = 64
    threads: int = 64
    """Threads and processes of a box's user, where it has one of its own."""


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How a box ended: `code` is 0 when a signal ended it, `signal` is 0 when it exited."""

    code: int
    signal: int
    cpu_seconds: float
    peak_bytes: int
    """Most resident memory of one of its processes."""


class Box:
    """One running box. Whoever starts it calls `kill` in the end, also when it has ended by itself."""

    def __init__(self, zygote: "Zygote", number: int, status: int, process: int) -> None:
        self._zygote = zygote
        self._number = number
        self._status = status
        self.process = process
        self._exit: Exit | None = None

    def fileno(self) -> int:
        """A descriptor that is readable once the box has ended, until `kill`."""
        return self._status

    def ended(self) -> Exit | None:
        """How it ended, or None while it runs. Raises BoxFailed when the zygote is gone."""
        return self.wait(0.0)

    def wait(self, timeout_s: float) -> Exit | None:
        """As `ended`, but waits up to `timeout_s` seconds."""
        if self._exit is None and self._status >= 0 and _readable(self._status, timeout_s):
            message = os.read(self._status, MESSAGE_LIMIT)
            if not message:
                raise BoxFailed("the zygote died and took the box with it")
            self._exit = Exit(**json.loads(message))
        return self._exit

    def kill(self) -> None:
        """End everything in the box and reap it; idempotent. One that will not die takes its zygote with it."""
        if self._status < 0:
            return
        try:
            if self._exit is None:
                with contextlib.suppress(BoxFailed):  # its death with the zygote is a death
                    self._zygote.send({"kill": self._number})
                    if self.wait(KILL_TIMEOUT_S) is None:
                        self._zygote.close()
        finally:
            os.close(self._status)
            self._status = -1

    def starved_seconds(self) -> float:
        """Seconds its living threads were ready to run and had no processor; 0.0 where the kernel does not count."""
        return sum(starved_seconds(process) for process in [self.process, *descendants(self.process)])


class Zygote:
    """The fork server of one worker: a clean interpreter with the usual modules loaded, one thread.

    `level` is the isolation in force. Made from the main thread, it dies with its maker at once; made from another
    thread, when its channel closes. Raises BoxFailed when it cannot start.
    """

    def __init__(self, level: int | None = None) -> None:
        self._boxes = 0
        self.refused: dict[int, str] = {}
        for candidate in LEVELS if level is None else (level,):
            self.level = candidate
            try:
                self._open()
                return
            except BoxFailed as failure:
                self.refused[candidate] = str(failure)
        raise BoxFailed("; ".join(f"level {candidate}: {why}" for candidate, why in self.refused.items()))

    def _open(self) -> None:
        """Start the process at `level` and try the level in a box. Raises BoxFailed."""
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        try:
            with theirs:
                self._process = _spawn(theirs, self.level)
        except BaseException:
            self._channel.close()
            raise
        try:
            self._greet()
            self._try_level()
        except BaseException:
            self.close()
            raise

    def _try_level(self) -> None:
        source, ours, report, theirs = *os.pipe2(os.O_CLOEXEC), *os.pipe2(os.O_CLOEXEC)
        try:
            os.write(ours, f"open(descriptors[1], 'w').write(problems(confine, {self.level}) or 'none')".encode())
            trial = self.start("trial", [source, theirs], Limits())
            try:
                if trial.wait(BOX_TIMEOUT_S) is None or not _readable(report, 0.0):
                    raise BoxFailed("a box for trial did not do its work")
            finally:
                trial.kill()
            problems = os.read(report, MESSAGE_LIMIT).decode()
            if problems != "none":
                raise BoxFailed(problems)
        finally:
            for descriptor in (source, ours, report, theirs):
                os.close(descriptor)

    @property
    def process(self) -> int:
        """The number of its process; the boxes are below it."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, entry: str, descriptors: Sequence[int], limits: Limits) -> Box:
        """A box in which `rewards.sandbox.inside.<entry>.main` runs with copies of `descriptors`. Raises BoxFailed."""
        self._boxes += 1
        request = {"box": self._boxes, "entry": entry, "limits": asdict(limits)}
        status, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            self.send(request, [theirs, *descriptors])
            os.close(theirs)
            theirs = -1
            return Box(self, self._boxes, status, self._reply(self._boxes, BOX_TIMEOUT_S))
        except BaseException:
            os.close(status)
            with contextlib.suppress(BoxFailed):
                self.send({"kill": self._boxes})
            raise
        finally:
            if theirs >= 0:
                os.close(theirs)

    def close(self) -> None:
        """End every box and the zygote; idempotent."""
        self._channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_TIMEOUT_S)
            return
        # A confined worker cannot kill; its own end ends the zygote.
        with contextlib.suppress(PermissionError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait(KILL_TIMEOUT_S)

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Raises BoxFailed when nobody is there to read it."""
        try:
            socket.send_fds(self._channel, [json.dumps(message).encode()], list(descriptors))
        except OSError as error:
            raise BoxFailed(f"the zygote is gone ({error})") from None

    def _greet(self) -> None:
        """Wait until the zygote is ready; until then its standard error tells what went wrong."""
        assert self._process.stderr is not None
        with self._process.stderr as errors:
            try:
                self._reply(0, START_TIMEOUT_S)
            except BoxFailed as failure:
                self._process.kill()
                wrote = errors.read()[-400:].decode(errors="replace").strip()
                raise BoxFailed(f"a zygote could not start: {failure}{wrote and '; '}{wrote}") from None

    def _reply(self, box: int, timeout_s: float) -> int:
        """The process number, as this process sees it, of the one who reports that `box` is ready."""
        until = time.monotonic() + timeout_s
        while _readable(self._channel.fileno(), until - time.monotonic()):
            try:
                message, ancillary, _, _ = self._channel.recvmsg(MESSAGE_LIMIT, socket.CMSG_SPACE(CREDENTIALS_BYTES))
            except ConnectionResetError:  # it died with words of ours unread
                message, ancillary = b"", list[Any]()
            if not message:
                raise BoxFailed("the zygote died")
            reply = json.loads(message)
            if reply["box"] != box:
                continue
            if reply["failure"]:
                raise BoxFailed(reply["failure"])
            process = next(data[:4] for level, kind, data in ancillary if kind == socket.SCM_CREDENTIALS)
            return int.from_bytes(process, sys.byteorder)
        raise BoxFailed(f"no answer from the zygote within {timeout_s:g} s")


def _readable(descriptor: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(timeout_s, 0.0) * 1000))


def _spawn(channel: socket.socket, level: int) -> subprocess.Popen[bytes]:
    paths = sysconfig.get_paths()
    settings = {
        "level": level,
        "channel": channel.fileno(),
        # The kernel's tie is to the thread that started the process.
        "parent": os.getpid() if threading.current_thread() is threading.main_thread() else 0,
        "prefix": sys.base_prefix,
        "packages": sorted({paths["purelib"], paths["platlib"]}),
    }
    try:
        return subprocess.Popen(
            # Safe path, no user's and no other site's modules; -E would also ignore the seed of the hashes.
            [sys.executable, "-P", "-s", "-S", Path(__file__).with_name("zygote.py"), json.dumps(settings)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[channel.fileno()],
            cwd="/",
            env=_environment(),
        )
    except OSError as error:
        raise BoxFailed(f"a zygote could not start: {error}") from None


def _environment() -> dict[str, str]:
    """All that a program finds in its environment, so that it behaves the same in every check."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    single = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}
    place = {"HOME": "/tmp", "LANG": "C.UTF-8", "TZ": "UTC", "PATH": "/usr/bin:/bin"}
    # Each further arena of the allocator takes 128 MB of address space.
    return {**kept, **single, **place, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "MALLOC_ARENA_MAX": "2"}
