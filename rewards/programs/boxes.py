"""Communication between the worker and its boxes: non-blocking reads and writes with one poll, under a deadline.

Time that a box waited for a processor does not count. A deadline is extended by at most its own length, and only as
long as an answer is judged within 5.5 seconds.
"""

import contextlib
import os
import select
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rewards.sandbox.box import Box, Zygote
from rewards.sandbox.process_tree import descendants

CHUNK = 65_536
LATEST_DEADLINE_S = 5.5
"""No deadline is extended beyond this, so that a hostile answer takes at most 6 seconds, also on a busy machine."""

_ZYGOTES: list[Zygote] = []


def zygote() -> Zygote:
    """Return the zygote of this process, made at first use. Raises BoxFailed if it cannot start."""
    if not _ZYGOTES:
        _ZYGOTES.append(Zygote())
    return _ZYGOTES[0]


def close_zygote() -> None:
    """Close the zygote. The next call of `zygote` makes a new one."""
    while _ZYGOTES:
        _ZYGOTES.pop().close()


@contextlib.contextmanager
def open_descriptors() -> Iterator[list[int]]:
    """Yield a list for file descriptors. Those still in it at the end of the block are closed."""
    opened: list[int] = []
    try:
        yield opened
    finally:
        for descriptor in opened:
            os.close(descriptor)


def close(opened: list[int], descriptors: Sequence[int]) -> None:
    """Close some of the opened descriptors now, and remove them from the list."""
    for descriptor in descriptors:
        opened.remove(descriptor)
        os.close(descriptor)


class Deadline:
    """A deadline in wall time for boxes. When it passes, it is extended by the time they waited for a processor.

    The extension is at most the time in which the boxes used no processor, because threads of one program may delay
    each other.
    """

    def __init__(self, seconds: float, boxes: Sequence[Box]) -> None:
        self.seconds = seconds
        self.boxes = boxes
        self.extension = 0.0
        """Seconds added to the deadline."""
        self.max_extension = max(0.0, min(seconds, LATEST_DEADLINE_S - seconds))
        self.started = time.monotonic()

    def left(self) -> float:
        """Return the seconds until the deadline, extended if it has just passed; 0.0 when it is over."""
        elapsed = time.monotonic() - self.started
        if elapsed >= self.seconds + self.extension:
            starved = sum(box.starved_seconds() for box in self.boxes)
            idle = elapsed - sum(_cpu_seconds(box.process) for box in self.boxes)
            self.extension = max(self.extension, min(starved, idle, self.max_extension))
        return max(self.seconds + self.extension - elapsed, 0.0)


def _cpu_seconds(ancestor: int) -> float:
    """Return the processor time of a process and its live descendants."""
    ticks = 0
    for process in (ancestor, *descendants(ancestor)):
        with contextlib.suppress(OSError):
            ticks += sum(map(int, Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


class Exchange:
    """Pending writes to several descriptors and reads from others; `step` moves the bytes."""

    def __init__(self) -> None:
        self.writes: dict[int, memoryview] = {}
        self.reads: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        """Descriptors with everything written, or read to their end."""
        self.watched: set[int] = set()
        """Further descriptors: `step` returns when they are readable, but does not read them."""

    def write(self, descriptor: int, data: bytes) -> None:
        """Write `data` to a descriptor in later steps."""
        os.set_blocking(descriptor, False)
        self.writes[descriptor] = memoryview(data)

    def read(self, descriptor: int) -> None:
        """Read a descriptor in later steps, into `reads`."""
        os.set_blocking(descriptor, False)
        self.reads[descriptor] = bytearray()

    def step(self, timeout_s: float) -> set[int]:
        """Wait at most `timeout_s` seconds for a ready descriptor, then write or read. Return the ready descriptors."""
        poll = select.poll()
        for descriptor in self.writes.keys() - self.ended:
            poll.register(descriptor, select.POLLOUT)
        for descriptor in (self.reads.keys() - self.ended) | self.watched:
            poll.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(max(timeout_s, 0.0) * 1000 + 1)}
        for descriptor in ready:
            if descriptor in self.writes:
                self._write_some(descriptor)
            elif descriptor in self.reads:
                self._read_some(descriptor)
        return ready

    def drain(self, descriptor: int, limit: int) -> bytearray:
        """Read what a pipe still contains, without waiting for its end; stop above `limit` bytes in all."""
        data = self.reads[descriptor]
        while descriptor not in self.ended and len(data) <= limit:
            before = len(data)
            self._read_some(descriptor)
            if len(data) == before:
                break
        return data

    def _write_some(self, descriptor: int) -> None:
        try:
            self.writes[descriptor] = self.writes[descriptor][os.write(descriptor, self.writes[descriptor][:CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.writes[descriptor] = memoryview(b"")
        if not self.writes[descriptor]:
            self.ended.add(descriptor)

    def _read_some(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            return
        self.reads[descriptor] += data
        if not data:
            self.ended.add(descriptor)
