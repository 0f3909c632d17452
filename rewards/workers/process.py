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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rewards.sandbox.process_tree import starved_seconds
from rewards.verdict import Status, Verdict
from rewards.workers import progress
from rewards.workers.fork_server import Forked, ForkFailed, ForkServer
from rewards.workers.frames import FIELDS
from rewards.workers.job import Job
from rewards.workers.keeper import SIGNALLED, describe_exit
from rewards.workers.progress import Progress

START_TIMEOUT_S = 60.0
"""Seconds within which a worker must start and load its verifier."""
REAP_TIMEOUT_S = 5.0
"""Seconds to wait for a killed process to end."""
STARVED_LIMIT_S = 5.5
"""A deadline is extended by the time its worker waited for a processor core: up to twice its length, and not beyond
these seconds."""
SLOW_S = 0.05
"""Seconds without a frame after which an answer is slow: from then on the time without a core is measured, and the
answers behind it in its batch need not wait for it."""
LONGEST_STEP_S = 3600.0
"""Longest time limit of a step of a check (`rewards/steps.py`)."""
GRACE_S = 0.05
"""Seconds after the deadline in which a reply is still read: it may be in the socket already if the parent was busy."""
EXIT_GRACE_S = 1.0
"""Seconds in which a worker that closed its socket may exit by itself, so that its own exit code is reported."""
TASKS_PER_WORKER = 20_000
"""Answers after which a worker is replaced."""
GROWTH_LIMIT = 512 * 2**20
"""Bytes by which the largest resident memory of a worker may grow after its first batch. A worker that grows more is
replaced."""
PROGRAM = "import breadth; breadth.own_packages_first(); from rewards.workers.worker import main; main()"
"""What a worker process runs."""
REPLY_LIMIT = 2**19
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
        self.cause: Job | None = None
        """The task that was being judged, where it is known and has no verdict."""


class StartFailed(Exception):
    """A worker could not start or could not load its verifier. The grader is at fault, not the answer."""

    def __init__(self, reason: str, *, killed: bool = False) -> None:
        super().__init__(reason)
        self.killed = killed


@dataclass(eq=False)
class Worker:
    """One worker process, its keeper, the parent's end of its socket, and its counters."""

    verifier: str
    process: subprocess.Popen[bytes] | Forked
    """The keeper. The worker process is its child."""
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    progress: Progress
    pid: int = 0
    """Process id of the worker itself."""
    isolation: int = 0
    version: str = ""
    calls: int = 1
    """Answers that the worker judges at a time."""
    judged: int = 0
    rss: int = 0
    """Largest resident memory so far, in bytes."""
    first_rss: int = 0
    """The same after the first batch."""
    batches: int = 0
    """Batches sent."""
    sent: int = 0
    """Tasks of the last batch."""
    received: int = 0
    """Verdicts of the last batch that have arrived."""

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
        message = await self.reply([timeout_s])
        if "error" in message:
            raise StartFailed(str(message["error"]))
        self.pid, self.isolation, self.version = message["ready"], message["isolation"], message["version"]
        self.calls = message["calls"]

    def send(self, frame: bytes, tasks: int) -> None:
        """Start a batch of so many tasks."""
        self.batches += 1
        self.sent, self.received = tasks, 0
        self.writer.write(frame)

    def to_verdict(self, row: Any) -> Verdict:
        """Return the verdict with these values, in the order of FIELDS, with the worker's isolation level and verifier
        version. Raises WorkerLost if they are not valid."""
        try:
            values = dict(zip(FIELDS, row, strict=True))
            return Verdict(**values | self.origin(values["isolation"]))
        except (TypeError, ValueError, AssertionError):
            raise WorkerLost("crash", "the worker sent a frame that is not a verdict") from None

    def origin(self, isolation: int = 0) -> dict[str, Any]:
        """Return the fields of a verdict that say where it comes from."""
        return {"isolation": isolation or self.isolation, "version": self.version}

    def judging(self, begun: float = 0.0) -> tuple[int, float, float]:
        """Return the index of the answer that is being judged, when its judgement or the current step of it began, and
        the limit of the step in seconds, 0 for that of the answer.

        Args:
            begun: `time.monotonic()` that is returned where the worker has not noted a time.
        """
        batch, index, started, limit_s = self.progress.judging()
        if not self.batches or batch != self.batches:
            return 0, begun, 0.0
        index = min(max(index, self.received), self.sent - 1)
        return index, min(started, time.monotonic()), min(limit_s, LONGEST_STEP_S)

    async def reply(self, limits: Sequence[float], slow: Callable[[int], None] = lambda index: None) -> dict[str, Any]:
        """Return the next frame. Raises WorkerLost if it is invalid, or if an answer exceeds its limit.

        Args:
            limits: time limit of each answer of the batch in seconds, from the beginning of its judgement; one limit is
                that of the frame itself. A step of a check may have another limit, from its own beginning.
            slow: is called once with the index of an answer, if it takes more than SLOW_S.
        """
        begun, last = time.monotonic(), (-1, 0.0)
        reading = asyncio.ensure_future(self._frame())
        try:
            await asyncio.wait([reading], timeout=min(SLOW_S, limits[0]))
            while not reading.done():
                index, started, step_s = self.judging(begun)
                limit_s = step_s or limits[index]
                if (index, started) <= last:
                    raise WorkerLost("timeout", f"no verdict within {limit_s:g} s", time.monotonic() - started)
                if index > last[0]:
                    slow(index)
                last = index, started
                await self._wait(reading, started, limit_s)
            return reading.result()
        except (asyncio.IncompleteReadError, ConnectionError):
            await self.end(grace_s=EXIT_GRACE_S)
            code, spent = self.process.returncode, time.monotonic() - begun
            killed = code in (SIGNALLED + signal.SIGKILL, -signal.SIGKILL)
            raise WorkerLost("crash", f"the worker died ({describe_exit(code)})", spent, killed=killed) from None
        except (ValueError, RecursionError) as error:
            raise WorkerLost("crash", f"the worker sent a broken frame ({error})") from None
        finally:
            reading.cancel()

    async def _wait(self, reading: "asyncio.Future[dict[str, Any]]", started: float, limit_s: float) -> None:
        """Wait for the frame until the limit of an answer.

        Time in which the worker was runnable but had no processor core does not count, up to `limit_s` again.
        """
        starved, longest = starved_seconds(self.pid), max(limit_s, min(2 * limit_s, STARVED_LIMIT_S))
        limit = limit_s
        while limit > (spent := time.monotonic() - started):
            await asyncio.wait([reading], timeout=limit - spent)
            if reading.done():
                return
            limit = min(limit_s + starved_seconds(self.pid) - starved, longest)
        await asyncio.wait([reading], timeout=GRACE_S)

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
        self.first_rss = self.first_rss or self.rss
        return self.rss > self.first_rss + GROWTH_LIMIT or self.judged >= TASKS_PER_WORKER

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


async def start(verifier: str, timeout_s: float, server: ForkServer | None = None) -> Worker:
    """Start a worker and wait until it has loaded the verifier.

    Raises StartFailed with the last characters of the worker's standard error.

    Args:
        server: the fork server of the verifier, if it has one.
    """
    own_end, worker_end = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=own_end)
    with worker_end, tempfile.TemporaryFile() as errors:
        try:
            if server is not None:
                async with asyncio.timeout(timeout_s):
                    await server.ready(errors)
            memory = progress.create()
            try:
                process = (
                    spawn(verifier, worker_end, memory, errors)
                    if server is None
                    else server.fork(worker_end.fileno(), memory, errors.fileno())
                )
            finally:
                shared = Progress(memory)
        except BaseException as error:
            writer.close()
            if not isinstance(error, OSError | ForkFailed):  # TimeoutError is an OSError
                raise
            raise StartFailed(f"a worker could not start: {error or 'no answer'}; {_tail(errors)}") from None
        worker_end.close()
        worker = Worker(verifier, process, reader, writer, shared)
        try:
            await worker.ready(timeout_s)
        except BaseException as failure:
            await worker.end()
            if not isinstance(failure, WorkerLost):
                raise
            text = f"a worker could not start: {failure.reason}; {_tail(errors)}"
            raise StartFailed(text, killed=failure.killed) from None
    return worker


def _tail(errors: IO[bytes]) -> str:
    """Return the last characters of a file of standard error."""
    errors.seek(0)
    return errors.read()[-400:].decode(errors="replace").strip()


def spawn(verifier: str, channel: socket.socket, memory: int, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a worker with its keeper.

    Args:
        channel: the worker's end of the socket.
        memory: file descriptor of the shared memory of `progress.py`.
        errors: file that receives standard error until the verifier is loaded.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, str(channel.fileno()), str(memory), str(os.getpid()), verifier],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        pass_fds=[channel.fileno(), memory],
        env=environment(),
        start_new_session=True,  # Ctrl-C must reach the driver only, and the whole session can be killed at once.
    )


def environment() -> dict[str, str]:
    """Return the environment with this process's import path: the worker can import what this process can."""
    root = str(Path(__file__).resolve().parents[2])
    path = [entry or os.getcwd() for entry in sys.path]
    return os.environ | {"PYTHONPATH": os.pathsep.join(dict.fromkeys([*path, root])), "OMP_NUM_THREADS": "1"}
