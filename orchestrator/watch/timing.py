"""Measure wall time: of the phases of a start, and of role methods by wrapping them, so that the training loop contains
no timing code."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def timed(words: str, report: Callable[[str], None]) -> Iterator[list[str]]:
    """Report what was done inside, and its wall seconds: `checked the data in 1.2 s`. Nothing if it fails.

    Yields:
        A list, to which the caller may add details: `started the roles in 5.1 s (learner 0 3.2, generator 0 4.9)`.
    """
    began, details = time.monotonic(), list[str]()
    yield details
    more = f" ({', '.join(details)})" if details else ""
    report(f"{words} in {time.monotonic() - began:.1f} s{more}")


class Clock:
    """Add up wall seconds by name; `lap` returns and resets them."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lap_started = time.monotonic()

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Replace the async method `method` of `owner` by one that adds its wall time to `name`."""
        inner = getattr(owner, method)

        async def watched(*arguments: Any, **options: Any) -> Any:
            started = time.monotonic()
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
