"""Run untrusted programs in boxes: sandboxed processes that a small fork server, the zygote, makes for one worker.

A program can use the resources in `Limits` and the file descriptors passed to it. The isolation level decides what it
can reach beyond that. When a zygote starts, it tests the levels in a real box, highest first, and uses the first that
works.

**Level 3: namespaces, the system call filter (seccomp), and Landlock where the kernel has it.**

- The box has its own process, mount and IPC namespaces, and a network namespace without interfaces.
- It sees shared libraries, the interpreter's modules, installed packages and five devices, all read-only. It sees no
  /proc, no home directory, no data and not this repository.
- Its /tmp (16 MB) and /dev/shm (1 MB) are empty at its start and deleted at its end.
- The filter of level 2 applies too.
- When the first process of the box or the zygote ends, the kernel kills every process of the box.
- Started by root, the box runs under a user id that exists nowhere else. Started by an ordinary user (through a user
  namespace), it runs as that user.

**Level 2: the filter and Landlock, without namespaces**, which containers often forbid.

- Landlock: the box can read the same files as at level 3. It can write no file, not even in /tmp.
- The filter (`system_calls.py`) refuses: new processes, executing a program, sockets, signals to others, tracing, and
  changes to the mode, owner or times of a file.
- Not stopped: for any path, a program can find out whether it exists, its size and its age.
- The number of threads is limited only if the box has its own user id: if the zygote was started by root and every user
  can read the interpreter's files.

**Level 1: resource limits only.** It stops accidents: endless loops, memory use, large files. It stops no attack.

- A program has the files, network and processes of its user. Started by root, it has no capabilities of root, and it
  runs as another user where level 2 would.
- Processes that a program started are found and killed when its box ends, as long as the zygote runs.

**No level stops:**

- Reading the time, the kernel's version or the machine's load.
- Reading installed packages. So no package may contain the answer to a problem.
- Attacks on kernel bugs through the system calls that are still allowed (read, mmap, futex, threads and others).

Memory is limited per process, not per box. No limit ends a box that sleeps: its caller must kill it. The filter exists
for x86-64 and 64-bit Arm; other machines have level 1 only. Level 3 needs Linux 5.12, level 2 Linux 5.13. Start the
zygote before its worker confines itself, because Landlock allows no mounts.
"""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from rewards.sandbox.process_tree import descendants, starved_seconds
from rewards.sandbox.spawn import spawn_zygote

LEVELS = (3, 2, 1)
START_TIMEOUT_S = 60.0
"""Timeout for the start of a zygote: an interpreter and its imports, on a busy machine."""
BOX_TIMEOUT_S = 20.0
"""Timeout for making a box."""
KILL_TIMEOUT_S = 10.0
"""Timeout for the end of a killed box, and of a zygote."""
MESSAGE_LIMIT = 65_536
"""Maximum bytes of one message between the worker and its zygote."""
CREDENTIALS_BYTES = 12
"""Size of struct ucred: process id, user id, group id."""


class BoxFailed(Exception):
    """A box could not be made, or was lost with its zygote. Always a fault of the grader, never of the program."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Resource limits of one box. Limits per process apply to each process of the box separately."""

    memory_bytes: int = 2**30
    """Address space per process."""
    cpu_seconds: int = 10
    """Processor time per process. A process that exceeds it is killed."""
    file_bytes: int = 16 * 2**20
    """Maximum size of one file."""
    open_files: int = 64
    threads: int = 64
    """Threads and processes of the box's user id. Below level 3 applied only if the box has its
    own user id."""


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How a box ended. `code` is 0 if a signal ended it; `signal` is 0 if it exited."""

    code: int
    signal: int
    cpu_seconds: float
    peak_bytes: int
    """Largest peak of resident memory among its processes."""


class Box:
    """One running box. The caller that started it must call `kill`, even if the box has ended by itself."""

    def __init__(self, zygote: "Zygote", number: int, status: int, process: int) -> None:
        self._zygote = zygote
        self._number = number
        self._status = status
        self.process = process
        self._exit: Exit | None = None

    def fileno(self) -> int:
        """Return a file descriptor that becomes readable when the box ends; -1 after `kill`."""
        return self._status

    def ended(self) -> Exit | None:
        """Return how the box ended, or None while it runs.

        Raises:
            BoxFailed: the zygote has died.
        """
        return self.wait(0.0)

    def wait(self, timeout_s: float) -> Exit | None:
        """Wait up to `timeout_s` seconds for the box to end. Returns and raises as `ended` does."""
        if self._exit is None and self._status >= 0 and _readable(self._status, timeout_s):
            message = os.read(self._status, MESSAGE_LIMIT)
            if not message:
                raise BoxFailed("the zygote died, and its boxes were killed with it")
            self._exit = Exit(**json.loads(message))
        return self._exit

    def kill(self) -> None:
        """Kill and reap every process of the box; idempotent. If the box does not end in time, close its zygote."""
        if self._status < 0:
            return
        try:
            if self._exit is None:
                with contextlib.suppress(BoxFailed):  # a box whose zygote died has been killed too
                    self._zygote.send({"kill": self._number})
                    if self.wait(KILL_TIMEOUT_S) is None:
                        self._zygote.close()
        finally:
            os.close(self._status)
            self._status = -1

    def starved_seconds(self) -> float:
        """Return the seconds its live threads waited for a processor; 0.0 if the kernel does not measure it."""
        return sum(starved_seconds(process) for process in [self.process, *descendants(self.process)])


class Zygote:
    """The fork server of one worker: a clean, single-threaded interpreter with commonly used modules preloaded.

    A zygote made in the main thread is killed as soon as this process ends. One made in another thread ends when its
    channel closes.

    Args:
        level: the isolation level to use; None uses the highest that works here.

    Attributes:
        level: the isolation level in use.
        refused: the reason why each higher level does not work.

    Raises:
        BoxFailed: no zygote can start at the level (or at any level).
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
        """Start the process at `self.level` and test the level in a box. Raises BoxFailed."""
        self._channel, zygote_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        try:
            with zygote_end:
                self._process = spawn_zygote(zygote_end, self.level)
        except OSError as error:
            self._channel.close()
            raise BoxFailed(f"a zygote could not start: {error}") from None
        except BaseException:
            self._channel.close()
            raise
        try:
            self._wait_until_ready()
            self._test_level()
        except BaseException:
            self.close()
            raise

    def _test_level(self) -> None:
        source, source_write, report, report_write = *os.pipe2(os.O_CLOEXEC), *os.pipe2(os.O_CLOEXEC)
        try:
            os.write(
                source_write, f"open(descriptors[1], 'w').write(problems(confine, {self.level}) or 'none')".encode()
            )
            trial = self.start("trial", [source, report_write], Limits())
            try:
                if trial.wait(BOX_TIMEOUT_S) is None or not _readable(report, 0.0):
                    raise BoxFailed(f"the trial box did not end with a report within {BOX_TIMEOUT_S:g} s")
            finally:
                trial.kill()
            problems = os.read(report, MESSAGE_LIMIT).decode()
            if problems != "none":
                raise BoxFailed(problems)
        finally:
            for descriptor in (source, source_write, report, report_write):
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, entry: str, descriptors: Sequence[int], limits: Limits) -> Box:
        """Start a box that runs `rewards.sandbox.inside.<entry>.main`.

        Args:
            descriptors: file descriptors of which the box gets copies, numbered from 3 in this order.

        Raises:
            BoxFailed: the box could not be made.
        """
        self._boxes += 1
        request = {"box": self._boxes, "entry": entry, "limits": asdict(limits)}
        status, status_write = os.pipe2(os.O_CLOEXEC)
        try:
            self.send(request, [status_write, *descriptors])
            os.close(status_write)
            status_write = -1
            return Box(self, self._boxes, status, self._reply(self._boxes, BOX_TIMEOUT_S))
        except BaseException:
            os.close(status)
            with contextlib.suppress(BoxFailed):
                self.send({"kill": self._boxes})
            raise
        finally:
            if status_write >= 0:
                os.close(status_write)

    def close(self) -> None:
        """Kill every box and end the zygote; idempotent."""
        self._channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_TIMEOUT_S)
            return
        # A confined worker may not send signals. Then the zygote ends when the worker does.
        with contextlib.suppress(PermissionError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait(KILL_TIMEOUT_S)

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send a message, with copies of `descriptors`. Raises BoxFailed if the zygote has ended."""
        try:
            socket.send_fds(self._channel, [json.dumps(message).encode()], list(descriptors))
        except OSError as error:
            raise BoxFailed(f"the zygote has ended ({error})") from None

    def _wait_until_ready(self) -> None:
        """Wait until the zygote is ready. If it fails, add the end of its standard error to the BoxFailed."""
        assert self._process.stderr is not None
        with self._process.stderr as errors:
            try:
                self._reply(0, START_TIMEOUT_S)
            except BoxFailed as failure:
                self._process.kill()
                stderr = errors.read()[-400:].decode(errors="replace").strip()
                raise BoxFailed(f"a zygote could not start: {failure}{stderr and '; '}{stderr}") from None

    def _reply(self, box: int, timeout_s: float) -> int:
        """Wait for the report that `box` is ready. Return the sender's process id, as seen from this process."""
        deadline = time.monotonic() + timeout_s
        while _readable(self._channel.fileno(), deadline - time.monotonic()):
            try:
                message, ancillary, _, _ = self._channel.recvmsg(MESSAGE_LIMIT, socket.CMSG_SPACE(CREDENTIALS_BYTES))
            except ConnectionResetError:  # it died before it read all our messages
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
        raise BoxFailed(f"no reply from the zygote within {timeout_s:g} s")


def _readable(descriptor: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(timeout_s, 0.0) * 1000))
