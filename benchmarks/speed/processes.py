"""The processes of a command and all that they start: pause, continue, end, CPU seconds and memory, read from /proc.

    python -m benchmarks.speed.processes PID MARK

waits until its standard input ends, and then ends these processes; see `guarded`.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from benchmarks.speed.plan import ROOT

MARK = "BREADTH_BENCHMARK"
"""Environment variable by which the processes of a command are found."""
TICKS = os.sysconf("SC_CLK_TCK")
ROLES = ("learner", "generator", "grader", "driver", "others")
"""Roles of the processes of a Breadth run; see `role_of`."""
END_S = 60.0
"""Seconds that a command has to end by itself after SIGTERM."""


def new_mark() -> str:
    """Return a value of MARK for a command. It begins with that of this process, whose tree contains the command's."""
    return f"{os.environ.get(MARK, '')}/{secrets.token_hex(8)}"


class Tree:
    """A process and its descendants.

    A descendant whose parent ended is still found: by the variable MARK of its environment, or because it was seen
    before.

    Args:
        root: process id of the command.
        mark: value of MARK with which the command was started.
    """

    def __init__(self, root: int, mark: str) -> None:
        self.root = root
        self.mark = mark
        # The root from the start: directly after it, a command does not show its environment yet.
        self._seen: dict[int, int] = {root: stat.started} if (stat := _stat(root)) else {}
        """Process id -> start time, which tells a process from a later one with the same id."""

    def pids(self) -> list[int]:
        """Return the ids of all living processes of the tree, the root first."""
        stats = {pid: stat for pid in _all_pids() if (stat := _stat(pid)) is not None}
        found = {pid for pid, started in self._seen.items() if pid in stats and stats[pid].started == started}
        found |= {pid for pid in stats if pid not in found and self._is_marked(pid)}
        while True:
            more = {pid for pid, stat in stats.items() if stat.parent in found and pid not in found}
            if not more:
                break
            found |= more
        self._seen |= {pid: stats[pid].started for pid in found}
        return sorted(found, key=lambda pid: (pid != self.root, pid))

    def _is_marked(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            mark, variables = f"{MARK}={self.mark}".encode(), Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            return any(variable.startswith(mark) for variable in variables)
        return False

    def pause(self) -> None:
        """Stop every process of the tree, also those that start meanwhile."""
        stopped: set[int] = set()
        while new := [pid for pid in self.pids() if pid not in stopped]:
            _send(new, signal.SIGSTOP)
            stopped |= set(new)

    def proceed(self) -> None:
        """Let every process go on."""
        _send(reversed(self.pids()), signal.SIGCONT)

    def end(self) -> None:
        """End every process: SIGTERM to the root, and SIGKILL to what is left after a while."""
        self.proceed()
        self.pids()
        _send([self.root], signal.SIGTERM)
        until = time.monotonic() + END_S
        while _stat(self.root) is not None and time.monotonic() < until:
            self.pids()  # remembers them, also those whose parent ends
            time.sleep(0.1)
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL to every process until none is left, also to paused ones and those that start meanwhile."""
        until = time.monotonic() + 5
        while (pids := self.pids()) and time.monotonic() < until:
            _send(pids, signal.SIGKILL)
            time.sleep(0.1)

    def cpu_seconds(self) -> dict[str, float]:
        """Return the CPU seconds of each role of a Breadth run so far, by the role's name; see `role_of`."""
        return self._by_role(lambda pid: stat.cpu_s if (stat := _stat(pid)) else 0.0)

    def memory_mb(self) -> dict[str, float]:
        """Return the memory of each role of a Breadth run, in MB, by the role's name.

        Shared pages count once. Pages of files, such as those of libraries, do not count: other programs use them too.
        """
        return self._by_role(_own_mb)

    def _by_role(self, value: Callable[[int], float]) -> dict[str, float]:
        """Return the sum of a value over the processes of each role."""
        pids, found = self.pids(), dict[str, float]()
        parents = {pid: stat.parent for pid in pids if (stat := _stat(pid)) is not None}
        commands = {pid: _command(pid) for pid in parents}
        for pid in parents:
            role = role_of(pid, self.root, parents, commands)
            found[role] = found.get(role, 0.0) + value(pid)
        return found


@contextlib.contextmanager
def guarded(tree: Tree) -> Iterator[Tree]:
    """End a tree at the end of the block, and also if this process is killed: a process of its own then ends the tree.

    A paused process would otherwise stay for ever.
    """
    command = [sys.executable, "-m", __name__, str(tree.root), tree.mark]
    unmarked = {name: value for name, value in os.environ.items() if name != MARK} | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=unmarked, cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True):
        try:
            yield tree
        finally:
            tree.end()


def role_of(pid: int, root: int, parents: Mapping[int, int], commands: Mapping[int, str]) -> str:
    """Return the role of a process in a run over Ray: driver, learner, generator, grader with its worker processes, or
    others (those of Ray)."""
    if pid == root:
        return "driver"
    actor: int | None = pid
    while actor is not None and not commands.get(actor, "").startswith("ray::"):
        actor = parents.get(actor)
    if actor is None or "Shell" not in commands[actor]:
        return "others"
    if "LearnerShell" in commands[actor]:
        return "learner"
    return "grader" if "GraderShell" in commands[actor] else "generator"


class _Stat:
    """Parent, start time and CPU seconds of a process."""

    def __init__(self, text: str) -> None:
        fields = text.rpartition(")")[2].split()
        self.state, self.parent, self.started = fields[0], int(fields[1]), int(fields[19])
        self.cpu_s = (int(fields[11]) + int(fields[12])) / TICKS


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> _Stat | None:
    """Return what /proc says of a process; None if there is none, or only its exit status is left."""
    with contextlib.suppress(OSError, IndexError):
        stat = _Stat(Path(f"/proc/{pid}/stat").read_text())
        return None if stat.state in "ZX" else stat
    return None


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def _own_mb(pid: int) -> float:
    """Return the anonymous and shared memory of a process, its share of pages that several use, swap included."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        sizes = {name: value.split()[0] for name, _, value in (line.partition(":") for line in lines[1:])}
        return sum(int(sizes[name]) for name in ("Pss_Anon", "Pss_Shmem", "SwapPss")) / 1024
    return 0.0


def _send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):  # which somebody may send to all processes of the benchmark
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    Tree(int(sys.argv[1]), sys.argv[2]).kill()
