"""Measure how long an event loop is blocked: how much later than due a callback runs that is due all the time."""

import asyncio
import time
from types import TracebackType

PERIOD_S = 0.01
"""Seconds between two heartbeats."""


class Heartbeat:
    """Beats in the running event loop while the block runs.

    Example:
        async with Heartbeat() as heartbeat:
            await learner.update(batch, coefficients)
        print(heartbeat.largest_lag_s)
    """

    def __init__(self) -> None:
        self.largest_lag_s = 0.0
        """Largest time in seconds by which a heartbeat was late."""

    async def __aenter__(self) -> "Heartbeat":
        self._last = time.perf_counter()
        self._task = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._note()  # the last one may be late as well
        self._task.cancel()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_S)
            self._note()

    def _note(self) -> None:
        now = time.perf_counter()
        self.largest_lag_s = max(self.largest_lag_s, now - self._last - PERIOD_S)
        self._last = now
