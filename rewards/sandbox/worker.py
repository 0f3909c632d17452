"""One worker process of the pool: reads a task, judges it, writes the verdict, again and again.

Frames are a length of 4 bytes, big-endian, and that many bytes of JSON, over a socket of their own: standard input and
output lead nowhere, so nothing a library prints can fall between two frames. The parent keeps the deadlines and kills.
"""

import ctypes
import json
import os
import resource
import signal
import socket
import struct
import sys
import time
from typing import IO, Any

from rewards.registry import VERIFIERS, Verify, resolve

FRAME_LIMIT = 64 * 2**20
"""Bytes of one frame."""
MEMORY_LIMIT = 4 * 2**30
"""Bytes of address space of a worker that runs verifiers of ours only; a user's own may load what it likes."""
PR_SET_PDEATHSIG = 1


def pack(message: dict[str, Any]) -> bytes:
    """One frame. JSON is kept to ASCII, so even a lone surrogate survives the way."""
    data = json.dumps(message).encode()
    return struct.pack(">I", len(data)) + data


def serve(channel: IO[bytes]) -> None:
    """Answer frames until the parent closes the channel."""
    verifiers: dict[str, Verify] = {}
    _write(channel, {"ready": os.getpid()})
    while (message := _read(channel)) is not None:
        if "prepare" in message:
            _write(channel, {"error": _prepare(message["prepare"], verifiers)})
        else:
            _write(channel, _judge(message, verifiers))


def _prepare(name: str, verifiers: dict[str, Verify]) -> str:
    """Load a verifier ahead of its first answer; returns what went wrong, or nothing."""
    try:
        verifiers[name] = resolve(name)
    except ValueError as error:
        return str(error)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    ours = all(known in VERIFIERS for known in verifiers)
    if hard == resource.RLIM_INFINITY or hard > MEMORY_LIMIT:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT if ours else hard, hard))
    return ""


def _judge(task: dict[str, Any], verifiers: dict[str, Verify]) -> dict[str, Any]:
    started = time.perf_counter()
    verdict = verifiers[task["verifier"]](task["answer"], task["problem"])
    seconds = time.perf_counter() - started
    return {"reward": verdict.reward, "status": verdict.status, "reason": verdict.reason, "seconds": seconds}


def _read(channel: IO[bytes]) -> dict[str, Any] | None:
    head = channel.read(4)
    if len(head) < 4:
        return None
    message: dict[str, Any] = json.loads(channel.read(struct.unpack(">I", head)[0]))
    return message


def _write(channel: IO[bytes], message: dict[str, Any]) -> None:
    channel.write(pack(message))
    channel.flush()


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, even in the middle of a task."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def main() -> None:
    descriptor, parent = map(int, sys.argv[1:])
    _die_with(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    channel = socket.socket(fileno=descriptor)
    channel.set_inheritable(False)
    stream: Any = channel.makefile("rwb")
    # Until here the parent keeps standard error, to tell why a worker could not start.
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    serve(stream)


if __name__ == "__main__":
    main()
