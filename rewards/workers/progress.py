"""Memory shared by the pool and one worker: which answer is being judged since when, and which batch shall end early.

The pool reads it only when a batch takes long, or when the worker has died. A worker writes no message for each answer.
"""

import mmap
import os
import struct
import time

SIZE = 64
JUDGING = struct.Struct("<qqd")
"""Number of the batch, index of the answer in it, and `time.monotonic()` when its judgement began."""
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

    def begin(self, batch: int, index: int) -> None:
        """Note that the judgement of an answer begins."""
        JUDGING.pack_into(self._memory, 0, batch, index, time.monotonic())

    def judging(self) -> tuple[int, int, float]:
        """Return the batch, the index in it and the start of the answer that was begun last."""
        batch, index, started = JUDGING.unpack_from(self._memory)
        return batch, index, started

    def end_early(self, batch: int) -> None:
        """Make the worker end the batch after the answer it is judging."""
        ENDED.pack_into(self._memory, ENDED_AT, batch)

    def ends_early(self, batch: int) -> bool:
        """Return whether the batch shall end before its next answer."""
        return bool(ENDED.unpack_from(self._memory, ENDED_AT)[0] == batch)
