"""The parent's end of one worker process: starting it with its keeper, reading its frames, and ending both."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from rewards.sandbox.process_tree import starved_seconds
from rewards.verdict import Status, Verdict
from rewards.workers.keeper import SIGNALLED

START_TIMEOUT_S = 60.0
"""Bound on a worker's start, loading its verifier included."""
REAP_TIMEOUT_S = 5.0
"""Bound on the wait for a killed process."""
STARVED_LIMIT_S = 5.5
"""However long a worker waited for a core, no deadline below this is extended beyond it."""
GRACE_S = 0.05
"""A reply that already lay in the socket when the deadline passed (the parent was busy) still counts."""
EXIT_GRACE_S = 1.0
"""A worker that has hung up may end by itself for this long, so that the cause told is its own."""
TASKS_PER_WORKER = 20_000
GROWTH_LIMIT = 512 * 2**20
"""Bytes a worker's resident memory may grow after its first batch before it is replaced."""
REPLY_LIMIT = 65_536
"""Bytes of one reply."""


class WorkerLost(Exception):
    """The worker died, stuck or spoke nonsense; what of the verdict follows from it."""

    def __init__(self, status: Status, reason: str, seconds: float = 0.0, *, killed: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.seconds = seconds
        self.killed = killed
        """SIGKILL ended it, which is seldom the answer's doing."""


class StartFailed(Exception):
    """A worker could not start, or could not load its verifier: the grader's fault, not the answer's."""

    def __init__(self, reason: str, *, killed: bool = False) -> None:
        super().__init__(reason)
        self.killed = killed


@dataclass(eq=False)
class Worker:
    """One process that judges, its keeper, our end of its channel, and what it has done."""

    verifier: str
    process: subprocess.Popen[bytes]
    """The keeper: the judging process is its child."""
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    pid: int = 0
    isolation: int = 0
    version: str = ""
    judged: int = 0
    first_rss: int = 0

    @property
    def alive(self) -> bool:
        """Asks without reaping: as long as a dead leader is not reaped, its process group keeps its number."""
        if self.process.returncode is not None:
            return False
        try:
            return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False

    async def ready(self) -> None:
        """Wait until the verifier is loaded. Raises WorkerLost, StartFailed."""
        told = await self.reply(START_TIMEOUT_S)
        if "error" in told:
            raise StartFailed(str(told["error"]))
        self.pid, self.isolation, self.version = told["ready"], told["isolation"], told["version"]

    async def verdict(self, timeout_s: float) -> Verdict:
        """The next verdict. Raises WorkerLost when none comes in time or it makes no sense."""
        told = await self.reply(timeout_s)
        unfit = told.pop("unfit", False)
        try:
            verdict = Verdict(**told)
        except (TypeError, AssertionError):
            raise WorkerLost("crash", "the worker sent a frame that is no verdict") from None
        if unfit:
            raise WorkerLost(verdict.status, verdict.reason, verdict.seconds)
        self.judged += 1
        return self.signed(verdict)

    def signed(self, verdict: Verdict) -> Verdict:
        """The verdict with what it was reached under."""
        return replace(verdict, isolation=verdict.isolation or self.isolation, version=self.version)

    async def reply(self, timeout_s: float) -> dict[str, Any]:
        """The next frame. Time for which the worker could run but had no core does not count, up to `timeout_s` again.
        Raises WorkerLost when no frame comes in time or it makes no sense."""
        reading = asyncio.ensure_future(self._frame())
        started, starved = time.monotonic(), starved_seconds(self.pid)
        limit, longest = timeout_s, max(timeout_s, min(2 * timeout_s, STARVED_LIMIT_S))
        try:
            while limit > (spent := time.monotonic() - started):
                await asyncio.wait([reading], timeout=limit - spent)
                if reading.done():
                    return reading.result()
                limit = min(timeout_s + starved_seconds(self.pid) - starved, longest)
            await asyncio.wait([reading], timeout=GRACE_S)
            if reading.done():
                return reading.result()
            spent = time.monotonic() - started
            raise WorkerLost("timeout", f"no verdict within {timeout_s:g} s", spent)
        except (asyncio.IncompleteReadError, ConnectionError):
            await self.end(grace_s=EXIT_GRACE_S)
            code, spent = self.process.returncode, time.monotonic() - started
            killed = code in (SIGNALLED + signal.SIGKILL, -signal.SIGKILL)
            raise WorkerLost("crash", f"the worker died ({_death(code)})", spent, killed=killed) from None
        except (ValueError, RecursionError) as error:
            raise WorkerLost("crash", f"the worker sent a broken frame ({error})") from None
        finally:
            reading.cancel()

    async def _frame(self) -> dict[str, Any]:
        size = struct.unpack(">I", await self.reader.readexactly(4))[0]
        if size > REPLY_LIMIT:
            raise ValueError(f"of {size} bytes")
        message = json.loads(await self.reader.readexactly(size))
        if not isinstance(message, dict):
            raise ValueError("that holds no object")
        return message

    def outgrown(self) -> bool:
        """Whether the process has served long enough, or its memory has grown too much."""
        with contextlib.suppress(OSError):
            rss = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            self.first_rss = self.first_rss or rss
            if rss > self.first_rss + GROWTH_LIMIT:
                return True
        return self.judged >= TASKS_PER_WORKER

    async def end(self, grace_s: float = 0.0) -> None:
        """Have the keeper end the process and all that it started, and reap the keeper; with a grace the process may
        end by itself, so that the cause of its death is its own."""
        self.writer.close()
        if self.process.returncode is None:
            await self._gone(grace_s)
            for group, order in ((False, signal.SIGTERM), (True, signal.SIGKILL)):
                if self.alive:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        (os.killpg if group else os.kill)(self.process.pid, order)
                    await self._gone(REAP_TIMEOUT_S)
            self.process.poll()

    async def _gone(self, wait_s: float) -> None:
        until = time.monotonic() + wait_s
        while self.alive and time.monotonic() < until:
            await asyncio.sleep(0.002)


def spawn(verifier: str, channel: socket.socket, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a worker that speaks over `channel` and leaves what goes wrong until it is ready in `errors`."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "rewards.workers.worker", str(channel.fileno()), str(os.getpid()), verifier],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        pass_fds=[channel.fileno()],
        env=_environment(),
        start_new_session=True,  # Ctrl-C is for the driver; and the whole session can be killed at once
    )


def _environment() -> dict[str, str]:
    """Ours, with our import path: what can be imported here can be imported there."""
    root = str(Path(__file__).resolve().parents[2])
    path = [entry or os.getcwd() for entry in sys.path]
    return os.environ | {"PYTHONPATH": os.pathsep.join(dict.fromkeys([*path, root])), "OMP_NUM_THREADS": "1"}


def _death(code: int | None) -> str:
    if code is None:
        return "it does not end"
    number = -code if code < 0 else code - SIGNALLED
    return f"signal {signal.Signals(number).name}" if number in set(signal.Signals) else f"exit code {code}"
