"""The fork server: a clean interpreter that makes boxes for the worker that started it.

Run as a program, never imported by the worker. One thread, one loop: requests come over the channel, news of deaths
over a wake-up pipe. When the channel closes it ends every box, then itself.
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
from rewards.sandbox import confinement, namespaces, process_tree, system_calls  # noqa: E402

ENTRIES = ("candidate", "tester", "program", "trial")
PRELOADED = (
    "array ast asyncio base64 bisect calendar cmath collections collections.abc concurrent.futures contextlib copy "
    "csv dataclasses datetime decimal encodings.ascii encodings.idna encodings.latin_1 enum fractions functools "
    "glob hashlib heapq inspect io itertools json keyword locale logging math numbers operator os pathlib pickle "
    "pprint queue random re secrets shutil statistics string struct sys tempfile textwrap threading time timeit "
    "traceback types typing unicodedata unittest uuid warnings weakref zlib"
)
"""What programs often import: loaded once here, not once in each box."""
MESSAGE_LIMIT = 65_536
DESCRIPTORS_LIMIT = 16
FIRST_GIVEN = 3
DESCRIPTORS_END = 4096
USERS_PER_ZYGOTE = 64
USERS_LEFT_ALONE = 1024
"""The last user numbers are often taken (65534 is nobody)."""
STRAY_ROUNDS = 100


class Boxes:
    """The boxes that live, and how they are made and reaped at one level of isolation."""

    def __init__(self, channel: socket.socket, settings: dict[str, Any], entries: dict[str, ModuleType]) -> None:
        """Enters the namespaces where the level has them. Raises OSError where they cannot be had."""
        self._channel = channel
        self._entries = entries
        self._level: int = settings["level"]
        self._process_of: dict[int, int] = {}
        self._status_of: dict[int, int] = {}
        self._process = os.getpid()
        self._users = own_users(self._process)
        files = namespaces.system_files(settings["prefix"], settings["packages"])
        self._fork = os.fork
        self._confine = functools.partial(confinement.confine, self._level, files, (), namespaces.DEVICES)
        if self._level == 3:
            enclosure = namespaces.Enclosure()
            namespaces.build_view(files)
            self._fork = enclosure.fork
            self._users = self._users if enclosure.has_users else range(0)
            private = ("/tmp", "/dev/shm")
            self._confine = functools.partial(confinement.confine, 3, ("/",), private, namespaces.DEVICES)
        elif os.geteuid() != 0 or not all(map(open_to_others, files)):
            self._users = range(0)  # cannot change the user, or another one could not read the interpreter's files

    def start(self, request: dict[str, Any], descriptors: list[int]) -> None:
        """Fork a box, or tell why not; takes over the descriptors, of which the first is for news of its end."""
        status, *given = descriptors
        number: int = request["box"]
        try:
            process = self._fork()
        except OSError as error:
            self.tell(number, f"a process: {error}")
            os.close(status)
        else:
            if process == 0:
                self._live(request, given)
            self._process_of[number] = process
            self._status_of[process] = status
        for descriptor in given:
            os.close(descriptor)

    def kill(self, number: int) -> None:
        """End a box and all in it; its first process is not reaped yet, so its number is still its own."""
        process = self._process_of.get(number)
        if process is not None:
            os.kill(process, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)

    def end(self) -> None:
        """End all boxes and wait for their deaths."""
        for number in list(self._process_of):
            self.kill(number)
        while self._status_of:
            self._reap_one(os.WEXITED)

    def reap(self) -> None:
        """Take every death there is, and report those of boxes."""
        with contextlib.suppress(ChildProcessError):
            while self._reap_one(os.WEXITED | os.WNOHANG):
                pass

    def tell(self, box: int, failure: str = "") -> None:
        """Report a box (0: this process) ready or failed; the kernel adds the number of the process that speaks."""
        try:
            self._channel.send(json.dumps({"box": box, "failure": failure}).encode())
        except OSError:
            os._exit(1)  # nobody is left to work for

    def _live(self, request: dict[str, Any], descriptors: list[int]) -> None:
        """The whole life of a box's first process; never returns."""
        code = 1
        try:
            try:
                given = renumber(descriptors, keep=self._channel.fileno())
                self._prepare(request)
                entry = self._entries[request["entry"]].main
            except BaseException as error:
                self.tell(request["box"], f"{type(error).__name__}: {error}")
                os._exit(1)
            self.tell(request["box"])
            os.close(self._channel.detach())
            entry(given, self._confine)
            code = 0
        finally:
            os._exit(code)

    def _prepare(self, request: dict[str, Any]) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, 0)
        if self._level == 3:
            namespaces.freshen()
            sys.path[:] = map(namespaces.seen_as, sys.path)
        limits = request["limits"]
        if self._users:
            user = self._users[request["box"] % len(self._users)]
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        elif self._level < 3:
            limits["threads"] = 0  # would count what the user has running elsewhere
        confinement.drop_privileges()
        confinement.die_with_parent()
        if self._level < 3 and os.getppid() != self._process:  # where namespaces end with the zygote, so does a box
            os._exit(1)
        confinement.limit(**limits)

    def _reap_one(self, how: int) -> bool:
        died = os.waitid(os.P_ALL, 0, how | os.WNOWAIT)
        if died is None:
            return False
        process = died.si_pid
        if process in self._status_of:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
        _, state, usage = os.wait4(process, 0)
        status = self._status_of.pop(process, None)
        if status is None:
            return True
        with contextlib.suppress(ChildProcessError):
            while self._level < 3:  # its orphans are ours now
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
        """Without a filter a program may have left its group: end whoever is below us and in no living box."""
        for _ in range(STRAY_ROUNDS):
            strays = [child for child in process_tree.children(os.getpid()) if child not in self._status_of]
            for stray in strays:
                for process in (stray, *process_tree.descendants(stray)):
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(process, signal.SIGKILL)
                os.waitpid(stray, 0)
            if not strays:
                return


def own_users(process: int) -> range:
    """User numbers that are nobody else's: some for each zygote, told apart by its process number; none where the
    machine, or the container, has few."""
    with open("/proc/self/uid_map") as lines:
        top = max(first + count - 1 for first, _, count in (map(int, line.split()) for line in lines))
    top = min(top, 2**31 - 1) - USERS_LEFT_ALONE
    if top < 2 * USERS_LEFT_ALONE:
        return range(0)
    first = top - USERS_PER_ZYGOTE - process * USERS_PER_ZYGOTE % (top // 2)
    return range(first, first + USERS_PER_ZYGOTE)


def open_to_others(path: str) -> bool:
    """Whether any user may get to a directory and read it."""
    real = Path(path).resolve()
    return real.stat().st_mode & 0o4 != 0 and all(above.stat().st_mode & 0o1 for above in real.parents)


def renumber(descriptors: list[int], keep: int) -> list[int]:
    """Give the descriptors the numbers 3, 4, ... and close all others but 0, 1, 2 and `keep`, which is above them."""
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, keep + 1) for descriptor in descriptors]
    given = [os.dup2(descriptor, FIRST_GIVEN + index) for index, descriptor in enumerate(high)]
    os.closerange(FIRST_GIVEN + len(given), keep)
    os.closerange(keep + 1, DESCRIPTORS_END)
    return given


def load(packages: list[str]) -> dict[str, ModuleType]:
    """Import everything that boxes share; afterwards this repository is not on the path."""
    for name in PRELOADED.split():
        with contextlib.suppress(ImportError):  # a build of Python may lack some
            importlib.import_module(name)
    entries = {name: importlib.import_module(f"rewards.sandbox.inside.{name}") for name in ENTRIES}
    system_calls.load()
    sys.path.remove(ROOT)
    sys.path += packages
    site.setquit()  # `exit` and `quit`, which programs call, and which an interpreter without its site lacks
    sys.argv = [""]
    return entries


def serve(channel: socket.socket, boxes: Boxes, deaths: int) -> None:
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.register(deaths, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if deaths in ready:
            os.read(deaths, MESSAGE_LIMIT)
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
    settings = json.loads(sys.argv[1])
    if settings["parent"]:
        confinement.die_with_parent()
        if os.getppid() != settings["parent"]:
            sys.exit(1)
    # A box that eats the machine's memory is to go before anything else does.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    entries = load(settings["packages"])
    channel = socket.socket(fileno=fcntl.fcntl(settings["channel"], fcntl.F_DUPFD_CLOEXEC, DESCRIPTORS_LIMIT * 2))
    os.close(settings["channel"])
    try:
        boxes = Boxes(channel, settings, entries)
    except OSError as error:
        channel.send(json.dumps({"box": 0, "failure": str(error)}).encode())
        sys.exit(1)
    confinement.adopt_orphans()
    deaths, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    os.dup2(0, 2)  # until here the worker reads what goes wrong there
    gc.collect()
    gc.freeze()
    boxes.tell(0)
    serve(channel, boxes, deaths)


if __name__ == "__main__":
    main()
