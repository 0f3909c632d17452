"""Measure the wall time of role methods by wrapping them, so that the training loop contains no timing code."""

import time
from typing import Any


class Clock:
    """Add up wall seconds by name; `lap` returns and resets them."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lap_started = time.monotonic()

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Replace the async method `method` of `owner` by one that adds its wall time to `name`."""
        inner = getattr(owner, method)

        async def timed(*arguments: Any, **options: Any) -> Any:
            started = time.monotonic()
            try:
                return await inner(*arguments, **options)
            finally:
                self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - started

        setattr(owner, method, timed)

    def lap(self) -> dict[str, float]:
        """Return `seconds/NAME` since the last lap, and `seconds/step`, the wall time of the lap; start a new lap."""
        now = time.monotonic()
        seconds = {f"seconds/{name}": value for name, value in self._seconds.items()}
        seconds["seconds/step"] = now - self._lap_started
        self._seconds, self._lap_started = {}, now
        return seconds
