"""One worker process as seen by the pool: start it with its keeper, read its frames, and end both."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from rewards.sandbox.process_tree import starved_seconds
from rewards.verdict import Status, Verdict
from rewards.workers.keeper import SIGNALLED

START_TIMEOUT_S = 60.0
"""Seconds within which a worker must start and load its verifier."""
REAP_TIMEOUT_S = 5.0
"""Seconds to wait for a killed process to end."""
STARVED_LIMIT_S = 5.5
"""A deadline is extended by the time its worker waited for a processor core: up to twice its length, and not beyond
these seconds."""
GRACE_S = 0.05
"""Seconds after the deadline in which a reply is still read: it may be in the socket already if the parent was busy."""
EXIT_GRACE_S = 1.0
"""Seconds in which a worker that closed its socket may exit by itself, so that its own exit code is reported."""
TASKS_PER_WORKER = 20_000
"""Answers after which a worker is replaced."""
GROWTH_LIMIT = 512 * 2**20
"""Bytes by which a worker's resident memory may grow after its first batch. A worker that grows more is replaced."""
PROGRAM = "import breadth; breadth.own_packages_first(); from rewards.workers.worker import main; main()"
"""What a worker process runs."""
REPLY_LIMIT = 65_536
"""Bytes of one frame from a worker."""


class WorkerLost(Exception):
    """The worker died, missed its deadline or sent an invalid frame. Carries status and reason of the verdict."""

    def __init__(self, status: Status, reason: str, seconds: float = 0.0, *, killed: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.seconds = seconds
        self.killed = killed
        """SIGKILL ended the worker, which is seldom caused by the answer."""


class StartFailed(Exception):
    """A worker could not start or could not load its verifier. The grader is at fault, not the answer."""

    def __init__(self, reason: str, *, killed: bool = False) -> None:
        super().__init__(reason)
        self.killed = killed


@dataclass(eq=False)
class Worker:
    """One worker process, its keeper, the parent's end of its socket, and its counters."""

    verifier: str
    process: subprocess.Popen[bytes]
    """The keeper. The worker process is its child."""
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    pid: int = 0
    """Process id of the worker itself."""
    isolation: int = 0
    version: str = ""
    calls: int = 1
    """Answers that the worker judges at a time."""
    judged: int = 0
    first_rss: int = 0
    """Resident memory after the first batch, in bytes."""

    @property
    def alive(self) -> bool:
        """Whether the keeper runs. Does not reap it: the kernel does not reuse its process group id until then."""
        if self.process.returncode is not None:
            return False
        try:
            return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False

    async def ready(self, timeout_s: float) -> None:
        """Wait until the verifier is loaded. Raises WorkerLost or StartFailed."""
        message = await self.reply(timeout_s)
        if "error" in message:
            raise StartFailed(str(message["error"]))
        self.pid, self.isolation, self.version = message["ready"], message["isolation"], message["version"]
        self.calls = message["calls"]

    async def verdict(self, timeout_s: float) -> Verdict:
        """Return the next verdict. Raises WorkerLost if none arrives within `timeout_s`, if it is invalid, or if the
        worker reports that it needs to be replaced."""
        return self.to_verdict(await self.reply(timeout_s))

    def to_verdict(self, message: dict[str, Any]) -> Verdict:
        """Convert a frame to a verdict. Raises WorkerLost if it is invalid, or if the worker needs to be replaced."""
        needs_new_process = message.pop("needs_new_process", False)
        try:
            verdict = Verdict(**message)
        except (TypeError, AssertionError):
            raise WorkerLost("crash", "the worker sent a frame that is not a verdict") from None
        if needs_new_process:
            raise WorkerLost(verdict.status, verdict.reason, verdict.seconds)
        self.judged += 1
        return self.add_origin(verdict)

    def add_origin(self, verdict: Verdict) -> Verdict:
        """Return the verdict with the worker's isolation level and verifier version."""
        return replace(verdict, isolation=verdict.isolation or self.isolation, version=self.version)

    async def reply(self, timeout_s: float) -> dict[str, Any]:
        """Return the next frame. Raises WorkerLost if none arrives in time, or if it is invalid.

        Time in which the worker was runnable but had no processor core does not count, up to `timeout_s` again.
        """
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
            raise WorkerLost("crash", f"the worker died ({_describe_exit(code)})", spent, killed=killed) from None
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
            raise ValueError("that is not an object")
        return message

    def needs_replacement(self) -> bool:
        """Return whether the process has judged TASKS_PER_WORKER answers, or its memory has grown too much."""
        rss = self.rss()
        self.first_rss = self.first_rss or rss
        return rss > self.first_rss + GROWTH_LIMIT or self.judged >= TASKS_PER_WORKER

    def rss(self) -> int:
        """Return the resident memory of the worker in bytes; 0 if it has ended."""
        with contextlib.suppress(OSError):
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return 0

    async def end(self, grace_s: float = 0.0) -> None:
        """Make the keeper end the worker and everything the worker started, and reap the keeper.

        The worker may exit by itself for `grace_s` seconds, so that its own exit code is reported.
        """
        self.writer.close()
        if self.process.returncode is None:
            await self._wait_for_exit(grace_s)
            for group, number in ((False, signal.SIGTERM), (True, signal.SIGKILL)):
                if self.alive:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        (os.killpg if group else os.kill)(self.process.pid, number)
                    await self._wait_for_exit(REAP_TIMEOUT_S)
            self.process.poll()

    async def _wait_for_exit(self, wait_s: float) -> None:
        until = time.monotonic() + wait_s
        while self.alive and time.monotonic() < until:
            await asyncio.sleep(0.002)


async def start(verifier: str, timeout_s: float) -> Worker:
    """Start a worker and wait until it has loaded the verifier.

    Raises StartFailed with the last characters of the worker's standard error.
    """
    own_end, worker_end = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=own_end)
    with worker_end, tempfile.TemporaryFile() as errors:
        try:
            process = spawn(verifier, worker_end, errors)
        except OSError as error:
            writer.close()
            raise StartFailed(f"a worker could not start: {error}") from None
        worker_end.close()
        worker = Worker(verifier, process, reader, writer)
        try:
            await worker.ready(timeout_s)
        except BaseException as failure:
            await worker.end()
            if not isinstance(failure, WorkerLost):
                raise
            errors.seek(0)
            output = errors.read()[-400:].decode(errors="replace").strip()
            text = f"a worker could not start: {failure.reason}; {output}"
            raise StartFailed(text, killed=failure.killed) from None
    return worker


def spawn(verifier: str, channel: socket.socket, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a worker with its keeper.

    Args:
        channel: the worker's end of the socket.
        errors: file that receives standard error until the verifier is loaded.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, str(channel.fileno()), str(os.getpid()), verifier],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        pass_fds=[channel.fileno()],
        env=_environment(),
        start_new_session=True,  # Ctrl-C must reach the driver only, and the whole session can be killed at once.
    )


def _environment() -> dict[str, str]:
    """Return the environment with this process's import path: the worker can import what this process can."""
    root = str(Path(__file__).resolve().parents[2])
    path = [entry or os.getcwd() for entry in sys.path]
    return os.environ | {"PYTHONPATH": os.pathsep.join(dict.fromkeys([*path, root])), "OMP_NUM_THREADS": "1"}


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "it does not exit"
    number = -code if code < 0 else code - SIGNALLED
    return f"signal {signal.Signals(number).name}" if number in set(signal.Signals) else f"exit code {code}"
