"""Measure wall time of role methods by wrapping them, so that the training loop contains no timing code."""

import time
from collections.abc import Callable
from typing import Any


class Clock:
    """Add up wall seconds by name; `lap` returns and resets them.

    Args:
        begins: called with the name of a watched call that begins.
    """

    def __init__(self, begins: Callable[[str], None] = lambda name: None) -> None:
        self._begins = begins
        self._seconds: dict[str, float] = {}
        self._lap_started = time.monotonic()

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Replace the async method `method` of `owner` by one that adds its wall time to `name`."""
        inner = getattr(owner, method)

        async def watched(*arguments: Any, **options: Any) -> Any:
            started = time.monotonic()
            self._begins(name)
            try:
                return await inner(*arguments, **options)
            finally:
                self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - started

        setattr(owner, method, watched)

    def lap(self) -> dict[str, float]:
        """Return `seconds/NAME` since the last lap, and `seconds/step`, the wall time of the lap; start a new lap."""
        now = time.monotonic()
        seconds = {f"seconds/{name}": value for name, value in self._seconds.items()}
        seconds["seconds/step"] = now - self._lap_started
        self._seconds, self._lap_started = {}, now
        return seconds
