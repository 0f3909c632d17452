"""Memory shared by the pool and one worker: which answer is being judged since when, and which batch shall end early.

The pool reads it only when a batch takes long, or when the worker has died. A worker writes no message for each answer.
"""

import mmap
import os
import struct
import time

SIZE = 64
JUDGING = struct.Struct("<qqdd")
"""Number of the batch, index of the answer in it, `time.monotonic()` when its judgement or the current step of it
began, and the wall seconds that the step may take; 0: the limit of the answer."""
ENDED = struct.Struct("<q")
"""Number of the batch that shall end after the answer being judged."""
ENDED_AT = 32
"""Offset of ENDED in bytes."""


def create() -> int:
    """Return the file descriptor of new shared memory, of zeros."""
    descriptor = os.memfd_create("progress")
    os.ftruncate(descriptor, SIZE)
    return descriptor


class Progress:
    """Shared memory behind a file descriptor, which is closed."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, SIZE)
        os.close(descriptor)

    def begin(self, batch: int, index: int, limit_s: float = 0.0) -> None:
        """Note that the judgement of an answer begins, or a step of it with a limit of its own."""
        JUDGING.pack_into(self._memory, 0, batch, index, time.monotonic(), limit_s)

    def judging(self) -> tuple[int, int, float, float]:
        """Return the batch, the index in it, the start and the limit of what was begun last."""
        batch, index, started, limit_s = JUDGING.unpack_from(self._memory)
        return batch, index, started, limit_s

    def end_early(self, batch: int) -> None:
        """Make the worker end the batch after the answer it is judging."""
        ENDED.pack_into(self._memory, ENDED_AT, batch)

    def ends_early(self, batch: int) -> bool:
        """Return whether the batch shall end before its next answer."""
        return bool(ENDED.unpack_from(self._memory, ENDED_AT)[0] == batch)
