"""Heartbeats of a driver's event loop, sent through a pipe to the process that starts its run again (`restarts.py`).

A heartbeat is the number of seconds within which the next one comes: a float64. No clocks of two processes are
compared, no file system is used, and what was sent while the reader was suspended is read afterwards.
"""

import asyncio
import contextlib
import os
import select
import struct
from collections.abc import AsyncIterator, Iterator

PIPE = "BREADTH_DRIVER_BEATS"
"""Environment variable of a driver: the descriptor of its end of the pipe."""
BEAT_S = 1.0
"""Seconds between two heartbeats."""
OUTSIDE_S = 6 * 3600.0
"""Longest silence in seconds before the event loop runs, and while it starts and ends the run: a policy is downloaded,
the files of a checkpoint are hashed. What is done then has limits of its own."""
AFTER_S = 600.0
"""Longest time in seconds from the end of the event loop to that of the process, which ends its Ray cluster."""
BEAT = struct.Struct("d")


class Beats:
    """The driver's end of the pipe. It sends nothing in a process that no other one starts again."""

    def __init__(self) -> None:
        self.limit_s = OUTSIDE_S
        number = os.environ.pop(PIPE, None)
        self._pipe = int(number) if number else None
        if self._pipe is not None:
            os.set_inheritable(self._pipe, False)
            os.set_blocking(self._pipe, False)

    @contextlib.asynccontextmanager
    async def sent(self) -> AsyncIterator["Beats"]:
        """Send heartbeats while the event loop runs what is inside."""
        beating = asyncio.create_task(self._beat())
        try:
            yield self
        finally:
            beating.cancel()
            self._send(AFTER_S)

    @contextlib.contextmanager
    def within(self, limit_s: float) -> Iterator[None]:
        """Have the event loop count as stuck if it does not run for `limit_s` in what is done inside."""
        self.limit_s = limit_s
        self._send(limit_s)
        try:
            yield
        finally:
            self.limit_s = OUTSIDE_S
            self._send(OUTSIDE_S)

    async def _beat(self) -> None:
        while True:
            self._send(self.limit_s)
            await asyncio.sleep(BEAT_S)

    def _send(self, limit_s: float) -> None:
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # the reader is suspended for long, and the pipe is full; or it is gone
                os.write(self._pipe, BEAT.pack(limit_s))


class Listener:
    """The other end, which counts the seconds of silence. Use as a context manager around the driver's life."""

    def __init__(self) -> None:
        self._read, self.write = os.pipe()
        self.limit_s, self.silent_s = OUTSIDE_S, 0.0

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *raised: object) -> None:
        os.close(self._read)
        os.close(self.write)

    def silent(self, wait_s: float) -> bool:
        """Wait for a heartbeat, at most `wait_s`, and return whether the driver is silent for longer than it said.

        Waits are counted, not the time: if this process was suspended too, that is no silence.
        """
        if select.select([self._read], [], [], wait_s)[0]:
            read = os.read(self._read, 8192 * BEAT.size)
            [self.limit_s] = BEAT.unpack(read[-BEAT.size :])
            self.silent_s = 0.0
        else:
            self.silent_s += wait_s
        return self.silent_s >= self.limit_s
