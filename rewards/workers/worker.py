"""One worker process of the pool: loads one verifier, then reads tasks and writes their verdicts in a loop.

Tasks of an async verifier run at the same time, in one event loop. A frame before each of them has the number of the
call, which its verdict has too, and its time limit.

A frame is a length (4 bytes, big-endian) and that many bytes of JSON. Frames use a socket of their own, and standard
input and output are /dev/null, so that no library can print into the frames. The parent process measures the deadlines
and kills the worker. A worker of a built-in verifier drops the rights it does not need after loading (see
`rewards/sandbox/confinement.py`). A user verifier keeps its rights, network and GPU.
"""

import asyncio
import contextlib
import json
import os
import resource
import socket
import struct
import sys
import time
from dataclasses import asdict, replace
from typing import IO, Any

from rewards.registry import (
    RAISED,
    VERIFIERS,
    Verify,
    VerifyAsync,
    prepare,
    problem_faults,
    resolve,
    resolve_async,
    version_of,
)
from rewards.sandbox.confinement import confine_worker
from rewards.verdict import correct, wrong
from rewards.workers.keeper import fork_worker

CALLS = 64
"""Answers that a worker of an async verifier judges at a time."""
FRAME_LIMIT = 64 * 2**20
"""Bytes of one frame."""
MEMORY_LIMIT = 2 * 2**30
"""Bytes of address space of a worker of a built-in verifier. A user verifier has no limit."""


def pack(message: dict[str, Any]) -> bytes:
    """Encode a message as one frame. The JSON is ASCII, so that even a lone surrogate is transmitted unchanged."""
    data = json.dumps(message).encode()
    return struct.pack(">I", len(data)) + data


def serve(connection: socket.socket, name: str) -> None:
    """Load the verifier, report that it is ready, then judge the tasks of `connection` until the parent closes it."""
    channel: Any = connection.makefile("rwb")
    try:
        verify, verify_async = resolve(name), resolve_async(name)
        prepare(name)
        # The parent reads standard error up to here, to report why a worker could not start.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        isolation = _confine() if name in VERIFIERS else 0
    except Exception as error:  # Reported to the parent: whatever it is, the answers are not at fault.
        _write(channel, {"error": str(error) or type(error).__name__})
        return
    ready = {"ready": os.getpid(), "isolation": isolation, "version": version_of(name)}
    _write(channel, ready | {"calls": CALLS if verify_async else 1})
    if verify_async:
        asyncio.run(_judge_many(connection, verify_async))
        return
    while (task := _read(channel)) is not None:
        verdict = _check(name, task["problem"]) if task["answer"] is None else _judge(verify, task)
        if name in VERIFIERS and verdict["status"] == "grader_error" and not _can_go_on(name, verdict["reason"]):
            verdict["needs_new_process"] = True
        _write(channel, verdict)


async def _judge_many(connection: socket.socket, verify: VerifyAsync) -> None:
    """Judge the tasks of an async verifier as they arrive."""
    reader, writer = await asyncio.open_connection(sock=connection)
    running: set[asyncio.Task[None]] = set()

    async def frame() -> dict[str, Any]:
        message: dict[str, Any] = json.loads(
            await reader.readexactly(struct.unpack(">I", await reader.readexactly(4))[0])
        )
        return message

    async def judge(call: dict[str, Any], task: dict[str, Any]) -> None:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(call["limit_s"]):
                verdict = await verify(task["answer"], task["problem"], task["context"])
        except TimeoutError:
            verdict = wrong(f"no verdict within {call['limit_s']:g} s", "timeout")
        seconds = verdict.seconds or time.perf_counter() - started
        writer.write(pack(asdict(replace(verdict, seconds=seconds)) | {"call": call["call"]}))

    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            call = await frame()
            judging = asyncio.create_task(judge(call, await frame()))
            running.add(judging)
            judging.add_done_callback(running.discard)


def _confine() -> int:
    """Drop the memory, files and system calls that judging does not need, and return the isolation level reached."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(MEMORY_LIMIT, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return confine_worker()


def _judge(verify: Verify, task: dict[str, Any]) -> dict[str, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    verdict = verify(task["answer"], task["problem"], task["context"])
    seconds = verdict.seconds or time.perf_counter() - wall
    cpu_seconds = verdict.cpu_seconds or time.process_time() - cpu
    return asdict(replace(verdict, seconds=seconds, cpu_seconds=cpu_seconds))


def _check(name: str, problem: dict[str, Any]) -> dict[str, Any]:
    """Return a verdict on a problem itself: correct, or wrong with its faults as the reason."""
    try:
        faults = problem_faults(name, problem)
    except Exception as error:  # The problem is at fault: the check is total on what a verifier can use.
        faults = [f"the check raised {type(error).__name__}: {error}"]
    return asdict(wrong("; ".join(faults)) if faults else correct())


def _can_go_on(name: str, reason: str) -> bool:
    """Return whether the verifier did not raise and `prepare` succeeds. A confined process cannot repair itself."""
    try:
        prepare(name)
    except Exception:  # Whatever it is, a new process is needed.
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
    fork_worker(parent, descriptor)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    serve(connection, sys.argv[3])
