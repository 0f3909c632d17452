"""How often a process may be started again, and how long to wait before."""

import time
from collections import deque
from collections.abc import Callable

LONGEST_DELAY_S = 60.0
"""Longest wait before a restart, in seconds."""


class Budget:
    """The restarts of one process: at most `limit` within any `window_s` seconds, each after a longer wait.

    Args:
        delay_s: wait before the first restart of a window, in seconds. Each further one waits twice as long, up to
            LONGEST_DELAY_S.
    """

    def __init__(
        self, limit: int, window_s: float, delay_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit, self.window_s, self.delay_s, self._clock = limit, window_s, delay_s, clock
        self._times: deque[float] = deque()

    def take(self) -> float | None:
        """Count a restart. Return the seconds to wait before it, or None if there may be none."""
        now = self._clock()
        while self._times and now - self._times[0] >= self.window_s:
            self._times.popleft()
        if len(self._times) >= self.limit:
            return None
        self._times.append(now)
        return float(min(self.delay_s * 2 ** (len(self._times) - 1), LONGEST_DELAY_S))
