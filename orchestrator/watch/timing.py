"""Seconds spent in the roles' verbs, measured from outside, so that the loop itself holds no clock."""

import time
from typing import Any


class Clock:
    """Adds up wall seconds by name until `lap`."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lap_started = time.monotonic()

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Replace an async method of one object by the same method with its time taken under `name`."""
        inner = getattr(owner, method)

        async def timed(*arguments: Any, **options: Any) -> Any:
            started = time.monotonic()
            try:
                return await inner(*arguments, **options)
            finally:
                self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - started

        setattr(owner, method, timed)

    def lap(self) -> dict[str, float]:
        """`seconds/<name>` since the last lap, and `seconds/step` in all."""
        now = time.monotonic()
        seconds = {f"seconds/{name}": value for name, value in self._seconds.items()}
        seconds["seconds/step"] = now - self._lap_started
        self._seconds, self._lap_started = {}, now
        return seconds
