"""The fork server of a pool: a process that has loaded one verifier and forks the keeper of each of its workers.

A forked worker shares the memory of what is loaded, and pays nothing for its import. The keeper is a child of the
pool's process (CLONE_PARENT), as if that had started it, so the pool can wait for it. The server ends with its socket,
or when the pool's process ends.
"""

import asyncio
import contextlib
import ctypes
import gc
import os
import platform
import resource
import signal
import socket
import struct
import subprocess
import sys
from typing import IO, Any

from rewards.registry import prepare, resolve
from rewards.workers.keeper import PR_SET_PDEATHSIG, fork_worker
from rewards.workers.progress import Progress
from rewards.workers.worker import serve

CLONE = {"x86_64": 56, "aarch64": 220}
"""Number of the system call by architecture. There is a fork server on these only."""
CLONE_PARENT = 0x8000
REPLY_TIMEOUT_S = 20.0
"""Seconds within which a loaded server must fork."""
PROGRAM = "import breadth; breadth.own_packages_first(); from rewards.workers.fork_server import main; main()"
READY = b"r"
PROCESS = struct.Struct("<q")


class ForkFailed(Exception):
    """The server could not start, load the verifier or fork."""


class Forked:
    """A process that the fork server made, with the part of `subprocess.Popen` that a worker needs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Reap the process if it has ended, and return its exit code."""
        if self.returncode is None:
            with contextlib.suppress(ChildProcessError):
                ended, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode


class ForkServer:
    """The fork server as seen by the pool. It starts with the first worker, and again if it has ended.

    Args:
        environment: of the server and its workers.
    """

    def __init__(self, verifier: str, environment: dict[str, str]) -> None:
        self.verifier, self.environment = verifier, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._loading: asyncio.Task[None] | None = None

    async def ready(self, errors: IO[bytes]) -> None:
        """Wait until the verifier is loaded. Raises: ForkFailed.

        Args:
            errors: file that receives the standard error of a server that is started.
        """
        loaded = self._loading is not None and self._loading.done()
        if loaded and self._process is not None and self._process.poll() is not None:
            self.close()
        if self._loading is None:
            self._start(errors)
            self._loading = asyncio.create_task(self._load())
        await asyncio.shield(self._loading)

    def fork(self, channel: int, memory: int, errors: int) -> Forked:
        """Return a new keeper with its worker, which gets copies of these descriptors. Raises: ForkFailed."""
        assert self._socket is not None, "`ready` comes first"
        try:
            socket.send_fds(self._socket, [READY], [channel, memory, errors])
            reply = self._socket.recv(PROCESS.size)
        except OSError as error:
            raise ForkFailed(f"the fork server does not answer: {error}") from None
        if len(reply) < PROCESS.size:
            raise ForkFailed("the fork server has ended")
        return Forked(PROCESS.unpack(reply)[0])

    def close(self) -> None:
        """End the server and reap it. Its workers go on."""
        if self._loading is not None:
            self._loading.cancel()
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._socket = self._loading = None

    def _start(self, errors: IO[bytes]) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            arguments = [str(other.fileno()), str(os.getpid()), self.verifier]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=[other.fileno()],
                env=self.environment,
                start_new_session=True,
            )

    async def _load(self) -> None:
        assert self._socket is not None
        self._socket.setblocking(False)
        with contextlib.suppress(OSError):
            if await asyncio.get_running_loop().sock_recv(self._socket, 1) == READY:
                self._socket.settimeout(REPLY_TIMEOUT_S)
                return
        self._loading = None  # this task, which `close` would cancel
        self.close()
        raise ForkFailed("the fork server ended while it loaded the verifier")


def available() -> bool:
    """Return whether this machine has a fork server."""
    return platform.machine() in CLONE


def main() -> None:
    """Load the verifier, then fork a keeper for each message until the socket closes."""
    descriptor, parent, verifier = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    libc = ctypes.PyDLL(None)  # it keeps the lock of the interpreter, which the child needs
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    resolve(verifier)
    prepare(verifier)
    gc.collect()
    gc.freeze()  # a collection in a worker would copy the shared memory
    connection.send(READY)
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
        if not message:
            return
        process = libc.syscall(CLONE[platform.machine()], CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
        if process == 0:
            connection.close()
            _work(parent, verifier, *descriptors)
            os._exit(0)
        connection.send(PROCESS.pack(process))
        for given in descriptors:
            os.close(given)


def _work(parent: int, verifier: str, channel: int, memory: int, errors: int) -> None:
    """In the new process: become the keeper of a worker, which serves its channel."""
    os.setsid()
    os.dup2(errors, 2)
    os.close(errors)
    fork_worker(parent, channel)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection: Any = socket.socket(fileno=channel)
    connection.set_inheritable(False)
    serve(connection, verifier, Progress(memory))
