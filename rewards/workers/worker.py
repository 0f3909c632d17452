"""One worker process of the pool: loads one verifier, then reads a task, judges it, writes the verdict, over and over.

Frames are a length of 4 bytes, big-endian, and that many bytes of JSON, over a socket of their own: standard input and
output lead nowhere, so nothing a library prints can fall between two frames. The parent keeps the deadlines and kills.
A worker of a verifier of ours gives up what it does not need once it has loaded: see `confinement.py`. A user's own
verifier keeps its rights, network and GPU.
"""

import json
import os
import resource
import socket
import struct
import sys
import time
from dataclasses import asdict, replace
from typing import IO, Any

from rewards.registry import RAISED, VERIFIERS, Verify, prepare, resolve, version_of
from rewards.sandbox.confinement import confine_worker
from rewards.workers.keeper import fork_kept

FRAME_LIMIT = 64 * 2**20
"""Bytes of one frame."""
MEMORY_LIMIT = 2 * 2**30
"""Bytes of address space of a worker of a verifier of ours; a user's own may load what it likes."""


def pack(message: dict[str, Any]) -> bytes:
    """One frame. JSON is kept to ASCII, so even a lone surrogate survives the way."""
    data = json.dumps(message).encode()
    return struct.pack(">I", len(data)) + data


def serve(channel: IO[bytes], name: str) -> None:
    """Say that the verifier is loaded, then answer frames until the parent closes the channel."""
    try:
        verify = resolve(name)
        prepare(name)
        # Until here the parent keeps standard error, to tell why a worker could not start.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        isolation = _confine() if name in VERIFIERS else 0
    except Exception as error:  # told to the parent: the grader's fault, whatever it was
        _write(channel, {"error": str(error) or type(error).__name__})
        return
    _write(channel, {"ready": os.getpid(), "isolation": isolation, "version": version_of(name)})
    while (task := _read(channel)) is not None:
        verdict = _judge(verify, task)
        if name in VERIFIERS and verdict["status"] == "grader_error" and not _is_fit(name, verdict["reason"]):
            verdict["unfit"] = True
        _write(channel, verdict)


def _confine() -> int:
    """Give up memory, files and system calls that judging does not need; returns the level reached."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(MEMORY_LIMIT, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return confine_worker()


def _judge(verify: Verify, task: dict[str, Any]) -> dict[str, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    verdict = verify(task["answer"], task["problem"])
    seconds = verdict.seconds or time.perf_counter() - wall
    cpu_seconds = verdict.cpu_seconds or time.process_time() - cpu
    return asdict(replace(verdict, seconds=seconds, cpu_seconds=cpu_seconds))


def _is_fit(name: str, reason: str) -> bool:
    """Whether the verifier is sound and has what it needs; a confined process cannot make that anew."""
    try:
        prepare(name)
    except Exception:  # whatever it is, another process is needed
        return False
    return not reason.startswith(name + RAISED)


def _read(channel: IO[bytes]) -> dict[str, Any] | None:
    head = channel.read(4)
    if len(head) < 4:
        return None
    message: dict[str, Any] = json.loads(channel.read(struct.unpack(">I", head)[0]))
    return message


def _write(channel: IO[bytes], message: dict[str, Any]) -> None:
    channel.write(pack(message))
    channel.flush()


def main() -> None:
    descriptor, parent = map(int, sys.argv[1:3])
    fork_kept(parent, descriptor)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    channel = socket.socket(fileno=descriptor)
    channel.set_inheritable(False)
    stream: Any = channel.makefile("rwb")
    serve(stream, sys.argv[3])


if __name__ == "__main__":
    main()
