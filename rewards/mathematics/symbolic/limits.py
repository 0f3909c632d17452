"""Limit the processor time of sympy, and hold its module.

sympy has no time limit of its own. `limited` stops a call by an exception from a signal handler, which only the main
thread of a process can do. Workers judge in their main thread; in any other thread the call is refused.
"""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

CALL_S = 0.3
"""Processor seconds of one call of sympy."""
VERDICT_S = 0.5
"""Processor seconds of all calls of sympy for one verdict. A call that reaches its limit is the last one."""
REPEAT_S = 0.02
"""Processor seconds until the exception is raised again, in case a handler inside sympy suppressed it."""


class Undecided(Exception):
    """sympy cannot decide: the expression is not supported, is too large, or takes too long."""


class _OutOfTime(BaseException):
    """The time of a call is spent. Not an Exception, so that no handler inside sympy takes it for one of its own."""


class _Clock:
    """The processor time that is left to sympy for this verdict, and whether a call is running."""

    def __init__(self) -> None:
        self.left_s = VERDICT_S
        self.running = False


CLOCK = _Clock()


def start_verdict() -> None:
    """Give the next verdict its full time."""
    if threading.current_thread() is threading.main_thread():
        CLOCK.left_s = VERDICT_S


def limited(function: Callable[[], Any]) -> Any:
    """Return the result of a function that uses sympy.

    Raises: Undecided if the time is spent, if this is not the main thread, or if sympy raises an exception: it raises
        many kinds, and all mean that it has no result.
    """
    if threading.current_thread() is not threading.main_thread() or CLOCK.left_s < REPEAT_S or CLOCK.running:
        raise Undecided
    started, before = time.thread_time(), signal.signal(signal.SIGVTALRM, _stop)
    try:
        try:
            CLOCK.running = True
            signal.setitimer(signal.ITIMER_VIRTUAL, min(CALL_S, CLOCK.left_s), REPEAT_S)
            return function()
        finally:
            CLOCK.running = False
    except _OutOfTime:
        CLOCK.left_s = 0.0  # one call without a result leaves no time to the others
        raise Undecided from None
    except (MemoryError, Undecided):
        raise
    except Exception:
        raise Undecided from None
    finally:
        CLOCK.running = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
        CLOCK.left_s -= time.thread_time() - started


def _stop(number: int, frame: FrameType | None) -> None:
    if CLOCK.running:
        raise _OutOfTime
