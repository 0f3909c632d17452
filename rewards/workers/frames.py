"""Frames between the pool and a worker: a length (4 bytes, big-endian) and that many bytes of JSON."""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from rewards.registry import VERIFIERS
from rewards.verdict import Verdict
from rewards.workers.task import Task

FRAME_LIMIT = 64 * 2**20
"""Bytes of one frame to a worker."""
FIELDS = tuple(field.name for field in fields(Verdict))
"""Order of the values of a verdict in a frame."""


class Unsendable(Exception):
    """A task is too large, or its problem is not JSON. The message is the reason of its verdict."""


def pack(message: Mapping[str, Any]) -> bytes:
    """Encode a message as one frame. The JSON is ASCII, so that even a lone surrogate is transmitted unchanged."""
    data = json.dumps(message).encode()
    return struct.pack(">I", len(data)) + data


def pack_task(task: Task, call: Mapping[str, Any]) -> bytes:
    """Encode one task of an async verifier, and the fields of its call, as a frame. Raises Unsendable."""
    return _limited({**call, "problem": dict(task.problem), "answer": task.answer, "context": dict(task.context)})


def pack_batch(tasks: Sequence[Task]) -> bytes:
    """Encode tasks of one verifier as a frame. Raises Unsendable.

    A problem that several tasks share is encoded once, unless the verifier is a user's, who may change it.
    """
    problems: list[Mapping[str, Any]] = []
    places: dict[int, int] = {}
    rows = []
    for task in tasks:
        place = places.get(id(task.problem), len(problems))
        if place == len(problems):
            problems.append(task.problem if type(task.problem) is dict else dict(task.problem))
            if task.verifier in VERIFIERS:
                places[id(task.problem)] = place
        rows.append((place, task.answer, task.context if type(task.context) is dict else dict(task.context)))
    return _limited({"problems": problems, "tasks": rows})


def _limited(message: Mapping[str, Any]) -> bytes:
    try:
        frame = pack(message)
    except Exception as error:  # The problem may hold any value, also one that is not JSON.
        raise Unsendable(f"the problem cannot be used ({type(error).__name__}: {error})") from None
    if len(frame) > FRAME_LIMIT:
        raise Unsendable(f"the task takes {len(frame)} bytes, above {FRAME_LIMIT}")
    return frame


def values(verdict: Verdict, seconds: float, cpu_seconds: float) -> list[Any]:
    """Return the values of a verdict in the order of FIELDS, with the measured times where it has none."""
    measured = {"seconds": verdict.seconds or seconds, "cpu_seconds": verdict.cpu_seconds or cpu_seconds}
    return [measured.get(name, getattr(verdict, name)) for name in FIELDS]
