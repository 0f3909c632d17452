"""The zygote: a clean interpreter that forks boxes for the worker that started it.

It runs as a program; the worker never imports it. One thread runs one loop. Requests arrive over the channel. A
wake-up pipe becomes readable when a child ends. When the channel closes, the zygote kills every box and exits.
"""

import contextlib
import fcntl
import functools
import gc
import importlib
import json
import os
import select
import signal
import site
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = str(Path(__file__).resolve().parents[2])
sys.path.insert(0, ROOT)
from rewards.sandbox import confinement, namespaces, process_tree, system_calls, users  # noqa: E402

ENTRIES = ("candidate", "tester", "program", "trial")
PRELOADED = (
    "array ast asyncio base64 bisect calendar cmath collections collections.abc concurrent.futures contextlib copy "
    "csv dataclasses datetime decimal encodings.ascii encodings.idna encodings.latin_1 enum fractions functools "
    "glob hashlib heapq inspect io itertools json keyword locale logging math numbers operator os pathlib pickle "
    "pprint queue random re secrets shutil statistics string struct sys tempfile textwrap threading time timeit "
    "traceback types typing unicodedata unittest uuid warnings weakref zlib"
)
"""Modules that programs often import. They are loaded once here instead of once in each box."""
MESSAGE_LIMIT = 65_536
DESCRIPTORS_LIMIT = 16
FIRST_BOX_DESCRIPTOR = 3
CLOSE_UP_TO = 4096
STRAY_ROUNDS = 100
"""Maximum searches for stray processes after a box of level 1: they may start others while they are killed."""


class Boxes:
    """The live boxes of this zygote: starts, kills and reaps them, at one isolation level."""

    def __init__(self, channel: socket.socket, settings: dict[str, Any], entries: dict[str, ModuleType]) -> None:
        """Enter the namespaces, if the level has them. Raises OSError if the kernel or its settings forbid them."""
        self._channel = channel
        self._entries = entries
        self._level: int = settings["level"]
        self._process_of: dict[int, int] = {}
        """Id of the first process, by number of the box."""
        self._status_of: dict[int, int] = {}
        """Pipe for the report of the end, by id of the first process."""
        self._process = os.getpid()
        self._users = users.unused_ids(self._process)
        files = namespaces.system_files(settings["prefix"], settings["packages"])
        self._fork = os.fork
        self._confine = functools.partial(confinement.confine, self._level, files, (), namespaces.DEVICES)
        if self._level == 3:
            enclosure = namespaces.Enclosure()
            namespaces.build_root(files)
            self._fork = enclosure.fork
            self._users = self._users if enclosure.has_users else range(0)
            private = ("/tmp", "/dev/shm")
            self._confine = functools.partial(confinement.confine, 3, ("/",), private, namespaces.DEVICES)
        elif os.geteuid() != 0 or not all(map(users.can_all_read, files)):
            # This user cannot change its id, or another user could not read the interpreter's files.
            self._users = range(0)

    def start(self, request: dict[str, Any], descriptors: list[int]) -> None:
        """Fork a box, or report why that failed. The descriptors are closed here, the first when the box ends.

        Args:
            descriptors: the first is the pipe for the report of the box's end. The box gets the others.
        """
        status, *given = descriptors
        number: int = request["box"]
        try:
            process = self._fork()
        except OSError as error:
            self.report(number, f"cannot fork: {error}")
            os.close(status)
        else:
            if process == 0:
                self._run_box(request, given)
            self._process_of[number] = process
            self._status_of[process] = status
        for descriptor in given:
            os.close(descriptor)

    def kill(self, number: int) -> None:
        """Kill the first process and the process group of a box.

        The first process is not reaped yet, so no other process can have its id.
        """
        process = self._process_of.get(number)
        if process is not None:
            os.kill(process, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)

    def end(self) -> None:
        """Kill all boxes and reap them."""
        for number in list(self._process_of):
            self.kill(number)
        while self._status_of:
            self._reap_one(os.WEXITED)

    def reap(self) -> None:
        """Reap every child that has ended, and report the end of boxes."""
        with contextlib.suppress(ChildProcessError):
            while self._reap_one(os.WEXITED | os.WNOHANG):
                pass

    def report(self, box: int, failure: str = "") -> None:
        """Report to the worker that a box (0: the zygote itself) is ready or failed.

        The kernel adds the id of the sending process to the message (SCM_CREDENTIALS).
        """
        try:
            self._channel.send(json.dumps({"box": box, "failure": failure}).encode())
        except OSError:
            os._exit(1)  # the worker has ended

    def _run_box(self, request: dict[str, Any], descriptors: list[int]) -> None:
        """Prepare this process, the first of a box, run its entry, and exit. Never returns."""
        code = 1
        try:
            try:
                given = renumber(descriptors, keep=self._channel.fileno())
                self._prepare(request)
                entry = self._entries[request["entry"]].main
            except BaseException as error:
                self.report(request["box"], f"{type(error).__name__}: {error}")
                os._exit(1)
            self.report(request["box"])
            os.close(self._channel.detach())
            entry(given, self._confine)
            code = 0
        finally:
            os._exit(code)

    def _prepare(self, request: dict[str, Any]) -> None:
        """In a new box: reset signals, mount private directories, change the user, drop privileges, set limits."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, 0)
        if self._level == 3:
            namespaces.enter_box()
            sys.path[:] = map(namespaces.path_in_box, sys.path)
        limits = request["limits"]
        if self._users:
            user = self._users[request["box"] % len(self._users)]
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        elif self._level < 3:
            limits["threads"] = 0  # RLIMIT_NPROC would also count other processes of this user
        confinement.drop_privileges()
        confinement.die_with_parent()
        # The zygote may have died before `die_with_parent`. At level 3 the kernel then kills the namespaces anyway.
        if self._level < 3 and os.getppid() != self._process:
            os._exit(1)
        confinement.limit(**limits)

    def _reap_one(self, how: int) -> bool:
        """Reap one child; if it was the first process of a box, end the rest of the box and report.

        Returns:
            Whether a child had ended.
        """
        # WNOWAIT leaves the child unreaped, so its process group keeps its number until it is killed.
        ended = os.waitid(os.P_ALL, 0, how | os.WNOWAIT)
        if ended is None:
            return False
        process = ended.si_pid
        if process in self._status_of:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
        _, state, usage = os.wait4(process, 0)
        status = self._status_of.pop(process, None)
        if status is None:
            return True
        with contextlib.suppress(ChildProcessError):
            while self._level < 3:  # the zygote has become the parent of its orphans
                os.waitid(os.P_PGID, process, os.WEXITED)
        if self._level == 1:
            self._end_strays()
        self._process_of = {number: known for number, known in self._process_of.items() if known != process}
        code = os.waitstatus_to_exitcode(state)
        seconds, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
        report = {"code": max(code, 0), "signal": max(-code, 0), "cpu_seconds": seconds, "peak_bytes": peak}
        with contextlib.suppress(BrokenPipeError):
            os.write(status, json.dumps(report).encode())
        os.close(status)
        return True

    def _end_strays(self) -> None:
        """Kill and reap every process below the zygote that belongs to no live box.

        Without the filter, a program can leave its process group, so killing the group is not enough.
        """
        for _ in range(STRAY_ROUNDS):
            strays = [child for child in process_tree.children(os.getpid()) if child not in self._status_of]
            for stray in strays:
                for process in (stray, *process_tree.descendants(stray)):
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(process, signal.SIGKILL)
                os.waitpid(stray, 0)
            if not strays:
                return


def renumber(descriptors: list[int], keep: int) -> list[int]:
    """Renumber the descriptors to 3, 4, ... and close all others but 0, 1, 2 and `keep`.

    `keep` must be above the new numbers.
    """
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, keep + 1) for descriptor in descriptors]
    given = [os.dup2(descriptor, FIRST_BOX_DESCRIPTOR + index) for index, descriptor in enumerate(high)]
    os.closerange(FIRST_BOX_DESCRIPTOR + len(given), keep)
    os.closerange(keep + 1, CLOSE_UP_TO)
    return given


def preload(packages: list[str]) -> dict[str, ModuleType]:
    """Import the modules that boxes use, then remove this repository from the import path.

    Returns:
        The modules of `rewards.sandbox.inside` with a box's `main`, by name.
    """
    for name in PRELOADED.split():
        with contextlib.suppress(ImportError):  # some builds of Python lack some modules
            importlib.import_module(name)
    entries = {name: importlib.import_module(f"rewards.sandbox.inside.{name}") for name in ENTRIES}
    system_calls.precompute()
    sys.set_int_max_str_digits(importlib.import_module("rewards.sandbox.inside.source").INTEGER_DIGITS)
    sys.path.remove(ROOT)
    sys.path += packages
    site.setquit()  # defines `exit` and `quit`, which programs call; -S leaves them out
    sys.argv = [""]
    return entries


def serve(channel: socket.socket, boxes: Boxes, child_ended: int) -> None:
    """Serve requests until the channel closes, then kill all boxes.

    Args:
        child_ended: the read end of the wake-up pipe.
    """
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.register(child_ended, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if child_ended in ready:
            os.read(child_ended, MESSAGE_LIMIT)
            boxes.reap()
        if channel.fileno() in ready:
            message, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_LIMIT, DESCRIPTORS_LIMIT)
            if not message:
                break
            request = json.loads(message)
            if "kill" in request:
                boxes.kill(request["kill"])
            else:
                boxes.start(request, descriptors)
    boxes.end()


def main() -> None:
    """Start the zygote with the settings (JSON) of the first command line argument."""
    settings = json.loads(sys.argv[1])
    if settings["parent"]:
        confinement.die_with_parent()
        if os.getppid() != settings["parent"]:
            sys.exit(1)
    # If the machine runs out of memory, the kernel must kill a box before any other process.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    entries = preload(settings["packages"])
    channel = socket.socket(fileno=fcntl.fcntl(settings["channel"], fcntl.F_DUPFD_CLOEXEC, DESCRIPTORS_LIMIT * 2))
    os.close(settings["channel"])
    try:
        boxes = Boxes(channel, settings, entries)
    except OSError as error:
        channel.send(json.dumps({"box": 0, "failure": str(error)}).encode())
        sys.exit(1)
    confinement.adopt_orphans()
    child_ended, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    os.dup2(0, 2)  # until here the worker reads standard error, to report why the start failed
    gc.collect()
    gc.freeze()
    boxes.report(0)
    serve(channel, boxes, child_ended)


if __name__ == "__main__":
    main()
