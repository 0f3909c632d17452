"""How the worker talks to boxes: it writes, reads and waits with one poll, never blocks, and keeps the deadline.

Time that a box was ready to run and had no processor does not count, up to as much again as it was given, and only as
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
WHOLE_S = 5.5
"""A deadline is not put off beyond this, so that a hostile answer is done with in 6 seconds on a starved host, too."""

_ZYGOTES: list[Zygote] = []


def zygote() -> Zygote:
    """The fork server of this process, made at first use. Raises BoxFailed."""
    if not _ZYGOTES:
        _ZYGOTES.append(Zygote())
    return _ZYGOTES[0]


def drop_zygote() -> None:
    """Close the fork server, so that the next use makes a new one."""
    while _ZYGOTES:
        _ZYGOTES.pop().close()


@contextlib.contextmanager
def pipes() -> Iterator[list[int]]:
    """A list of descriptors, closed in the end if they are still in it."""
    held: list[int] = []
    try:
        yield held
    finally:
        for descriptor in held:
            os.close(descriptor)


def close(held: list[int], descriptors: Sequence[int]) -> None:
    """Close some of the held descriptors now."""
    for descriptor in descriptors:
        held.remove(descriptor)
        os.close(descriptor)


class Clock:
    """Wall seconds left to boxes. When they are over, the time the boxes were starved is given back: what they waited
    for a processor, as far as they did not have one meanwhile (threads of one program may starve each other)."""

    def __init__(self, seconds: float, boxes: Sequence[Box]) -> None:
        self.seconds = seconds
        self.boxes = boxes
        self.granted = 0.0
        """Seconds given back."""
        self.grant_limit = max(0.0, min(seconds, WHOLE_S - seconds))
        self.started = time.monotonic()

    def left(self) -> float:
        """Seconds until the deadline; 0.0 when it is over, also for boxes that were starved."""
        elapsed = time.monotonic() - self.started
        if elapsed >= self.seconds + self.granted:
            starved = sum(box.starved_seconds() for box in self.boxes)
            idle = elapsed - sum(_cpu_seconds(box.process) for box in self.boxes)
            self.granted = max(self.granted, min(starved, idle, self.grant_limit))
        return max(self.seconds + self.granted - elapsed, 0.0)


def _cpu_seconds(ancestor: int) -> float:
    """Processor time of a process and those below it that are there."""
    ticks = 0
    for process in (ancestor, *descendants(ancestor)):
        with contextlib.suppress(OSError):
            ticks += sum(map(int, Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


class Exchange:
    """Bytes to write to descriptors and bytes read from others, moved by `step`."""

    def __init__(self) -> None:
        self.writes: dict[int, memoryview] = {}
        self.reads: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        """Descriptors that are done: all written, or at their end."""
        self.watched: set[int] = set()

    def write(self, descriptor: int, data: bytes) -> None:
        os.set_blocking(descriptor, False)
        self.writes[descriptor] = memoryview(data)

    def read(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.reads[descriptor] = bytearray()

    def step(self, timeout_s: float) -> set[int]:
        """Wait until something can move or `timeout_s` is over, and move it; returns what was ready."""
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
        """What a pipe still holds, up to `limit` bytes in all, without waiting for its end."""
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
