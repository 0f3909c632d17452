"""One worker process of the pool: loads one verifier, then reads batches of tasks and writes their verdicts in a loop.

A batch is one frame, and so are its verdicts if the batch is quick (see `rewards/workers/frames.py`). Tasks of an async
verifier have a frame each, with the number of the call, which its verdict has too, and its time limit; they run at the
same time, in one event loop.

Frames use a socket of their own, and standard input and output are /dev/null, so that no library can print into the
frames. The parent process measures the deadlines and kills the worker. A worker of a built-in verifier drops the rights
it does not need after loading (see `rewards/sandbox/confinement.py`). A user verifier keeps its rights.
"""

import functools
import importlib
import json
import os
import resource
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from typing import IO, Any

from rewards.registry import (
    RAISED,
    VERIFIERS,
    Verify,
    prepare,
    problem_faults,
    resolve,
    resolve_async,
    version_of,
)
from rewards.sandbox.confinement import confine_worker
from rewards.sandbox.process_tree import starved_seconds
from rewards.steps import set_listener
from rewards.verdict import Verdict, correct, wrong
from rewards.workers.frames import pack, values
from rewards.workers.keeper import fork_worker
from rewards.workers.progress import Progress

SEND_S = 0.01
"""Seconds after which the verdicts on hand are sent, while the rest of their batch is still to be judged."""
WAITED_S = 0.001
"""Seconds that an answer must have waited for the time without a core to be measured."""
MEMORY_LIMIT = 2 * 2**30
"""Bytes of address space of a worker of a built-in verifier. A user verifier has no limit."""


def serve(connection: socket.socket, name: str, progress: Progress) -> None:
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
    if verify_async:
        # Imported here, as asyncio takes a third of the time in which a worker starts.
        module = importlib.import_module("rewards.workers.async_worker")
        _write(channel, ready | {"calls": module.CALLS})
        module.serve(connection, verify_async)
        return
    _write(channel, ready | {"calls": 1})
    batch = 0
    while (message := _read(channel)) is not None:
        batch += 1
        judge_batch(name, verify, message, lambda reply: _write(channel, reply), progress, batch)


def judge_batch(
    name: str,
    verify: Verify,
    message: Mapping[str, Any],
    write: Callable[[Mapping[str, Any]], None],
    progress: Progress,
    batch: int,
) -> None:
    """Judge the tasks of one frame in order, and write their verdicts in one frame, or in several if they take long.

    The last frame may lack verdicts: the pool ended the batch early, or this process cannot judge further answers
    (`broken`). The last verdict is then that of the answer after which it cannot.

    Args:
        batch: number of the frame since the start of this process, from 1.
    """
    rows: list[list[Any]] = []
    starved, sent, broken = 0.0, time.perf_counter(), False
    for index, (place, answer, context) in enumerate(message["tasks"]):
        wall, cpu = time.perf_counter(), time.process_time()
        if index and progress.ends_early(batch):
            break
        if rows and wall - sent > SEND_S:
            write(_reply(rows, starved))
            rows, starved, sent = [], 0.0, wall
        progress.begin(batch, index)
        set_listener(functools.partial(progress.begin, batch, index))
        problem = message["problems"][place]
        verdict = _check(name, problem) if answer is None else verify(answer, problem, context)
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        rows.append(values(verdict, seconds, cpu_seconds))
        if name not in VERIFIERS and seconds - cpu_seconds > WAITED_S:
            starved += STARVATION.since_last()
        elif name in VERIFIERS and verdict.status == "grader_error" and not _can_go_on(name, verdict.reason):
            broken = True
            break
    write(_reply(rows, starved) | {"last": True, "broken": broken})


def _reply(rows: list[list[Any]], starved: float) -> dict[str, Any]:
    """Return a frame of verdicts.

    Args:
        starved: seconds in which this process waited for a core while it judged them.
    """
    return {"verdicts": rows, "starved": starved, "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


class Starvation:
    """Measures the time in which this process was ready to run but had no core."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def since_last(self) -> float:
        """Return the seconds since the last call."""
        before, self._seconds = self._seconds, starved_seconds(os.getpid())
        return self._seconds - before


STARVATION = Starvation()


def _confine() -> int:
    """Drop the memory, files and system calls that judging does not need, and return the isolation level reached."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(MEMORY_LIMIT, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return confine_worker()


def _check(name: str, problem: Mapping[str, Any]) -> Verdict:
    """Return a verdict on a problem itself: correct, or wrong with its faults as the reason."""
    try:
        faults = problem_faults(name, problem)
    except Exception as error:  # The problem is at fault: the check is total on what a verifier can use.
        faults = [f"the check raised {type(error).__name__}: {error}"]
    return wrong("; ".join(faults)) if faults else correct()


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


def _write(channel: IO[bytes], message: Mapping[str, Any]) -> None:
    channel.write(pack(message))
    channel.flush()


def main() -> None:
    descriptor, shared, parent = map(int, sys.argv[1:4])
    fork_worker(parent, descriptor)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    serve(connection, sys.argv[4], Progress(shared))
