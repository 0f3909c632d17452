"""An event loop whose clock jumps to the next timer in place of waiting for it, for discrete-event simulations."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class VirtualClock(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """A selector that advances `now` by the time that it is asked to wait, and returns at once.

    An event loop waits for the next timer in `select` when no task can run, so virtual seconds pass between events.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        """Virtual seconds since the start of the loop."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Advance the clock by `timeout` seconds.

        Raises:
            RuntimeError: there is no timer, so every task would wait for ever.
        """
        if timeout is None:
            raise RuntimeError("the simulation waits for something that never happens")
        self.now += max(timeout, 0.0)
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time. Work for threads runs at once and takes no virtual time."""

    def __init__(self) -> None:
        self._virtual = VirtualClock()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Return the virtual seconds since the start of the loop."""
        return self._virtual.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Result], *args: Any
    ) -> asyncio.Future[Result]:
        """Run the function in this thread, so that no virtual time passes before it returns."""
        done: asyncio.Future[Result] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done


def run_virtually(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in virtual time and return its result."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
