"""Processes that share the cores of a machine, in virtual time."""

import asyncio
import math


class Cores:
    """Processor sharing: each of n busy single-threaded processes on C cores advances at min(1, C / n).

    Args:
        count: C. Infinite where every role has devices of its own. It may be a fraction: processes that compute at the
            same time slow each other down by the memory and caches that they share.
    """

    def __init__(self, count: float = math.inf) -> None:
        self.count = count
        self._busy = 0.0
        self._working: dict[asyncio.Event, float] = {}
        """The rate at which each computation began, by the event that interrupts it."""

    @property
    def rate(self) -> float:
        """Seconds of computation in a second of each busy process."""
        return min(1.0, self.count / self._busy) if self._busy else 1.0

    async def work(self, seconds: float, changed: asyncio.Event, processes: float = 1.0) -> float:
        """Compute for so many seconds, or until `changed` is set. Return the seconds that were computed.

        `changed` is also set when the rate changes.

        Args:
            processes: number of processes that compute so long, each on a core of its own while there are enough.
        """
        loop = asyncio.get_running_loop()
        self._busy += processes
        self._working[changed] = rate = self.rate
        self._later(loop)
        began = loop.time()
        try:
            async with asyncio.timeout(seconds / rate):
                await changed.wait()
            return min((loop.time() - began) * rate, seconds)
        except TimeoutError:
            return seconds
        finally:
            self._busy -= processes
            del self._working[changed]
            self._later(loop)

    async def finish(self, seconds: float, processes: float = 1.0) -> None:
        """Compute for so many seconds. Other tasks go on meanwhile, also if it takes no time."""
        changed, done = asyncio.Event(), 0.0
        if not seconds:
            await asyncio.sleep(0)
        while done < seconds:
            changed.clear()
            done += await self.work(seconds - done, changed, processes)

    def _later(self, loop: asyncio.AbstractEventLoop) -> None:
        """Interrupt the computations whose rate changed, but only after the tasks that go on at this moment have gone
        on: one that ends and begins again at once changes no rate."""
        if math.isfinite(self.count):
            loop.call_soon(self._interrupt)

    def _interrupt(self) -> None:
        for changed, rate in self._working.items():
            if rate != self.rate:
                changed.set()
