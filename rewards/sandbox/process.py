"""The parent's end of one worker process: starting it, reading its frames, and ending it."""

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rewards.sandbox.worker import pack

START_TIMEOUT_S = 60.0
"""Bound on a worker's start, and on loading a verifier."""
REAP_TIMEOUT_S = 5.0
"""Bound on the wait for a killed process."""
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
    """The worker died, stuck or spoke nonsense; the status and the words of the verdict that follows from it."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class StartFailed(Exception):
    """A worker could not start, or could not load a verifier: the grader's fault, not the answer's."""


@dataclass(eq=False)
class Worker:
    """One process, our end of its channel, and what it has done."""

    process: subprocess.Popen[bytes]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    prepared: set[str] = field(default_factory=set)
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

    async def reply(self, timeout_s: float) -> dict[str, Any]:
        """The next frame; raises WorkerLost when none comes in time or it makes no sense."""
        reading = asyncio.ensure_future(self._frame())
        try:
            for wait_s in (timeout_s, GRACE_S):
                await asyncio.wait([reading], timeout=wait_s)
                if reading.done():
                    return reading.result()
            raise WorkerLost("timeout", f"no verdict within {timeout_s:g} s")
        except (asyncio.IncompleteReadError, ConnectionError):
            await self.end(grace_s=EXIT_GRACE_S)
            raise WorkerLost("crash", f"the worker died ({_death(self.process.returncode)})") from None
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

    async def prepare(self, verifier: str) -> None:
        """Load a verifier, so that its import is not on an answer's clock. Raises StartFailed."""
        if verifier in self.prepared:
            return
        self.writer.write(pack({"prepare": verifier}))
        try:
            error = (await self.reply(START_TIMEOUT_S)).get("error")
        except WorkerLost as lost:
            raise StartFailed(f"loading verifier {verifier!r}: {lost.reason}") from None
        if error:
            raise StartFailed(str(error))
        self.prepared.add(verifier)

    def outgrown(self) -> bool:
        """Whether the process has served long enough, or its memory has grown too much."""
        with contextlib.suppress(OSError):
            rss = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            self.first_rss = self.first_rss or rss
            if rss > self.first_rss + GROWTH_LIMIT:
                return True
        return self.judged >= TASKS_PER_WORKER

    async def end(self, grace_s: float = 0.0) -> None:
        """Kill the process and whatever it started in its session, and reap it; with a grace it may end by itself, so
        that the cause of its death is its own."""
        self.writer.close()
        if self.process.returncode is None:
            await self._gone(grace_s)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            await self._gone(REAP_TIMEOUT_S)
            self.process.poll()

    async def _gone(self, wait_s: float) -> None:
        until = time.monotonic() + wait_s
        while self.alive and time.monotonic() < until:
            await asyncio.sleep(0.002)


def spawn(channel: socket.socket, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a worker that speaks over `channel` and leaves what goes wrong until it is ready in `errors`."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "rewards.sandbox.worker", str(channel.fileno()), str(os.getpid())],
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
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
