"""Steps of a check with time limits of their own.

A worker process has one time limit for an answer. A verifier whose check consists of several steps, of which some do
not depend on the answer, begins each step here. The limit then counts from the beginning of the step.
"""

from collections.abc import Callable

Listener = Callable[[float], None]
_listeners: list[Listener] = []


def begin_step(limit_s: float) -> None:
    """Begin a step of the current check.

    Args:
        limit_s: wall seconds after which the step is ended with its process, if a pool runs it.
    """
    for listener in _listeners:
        listener(limit_s)


def set_listener(listener: Listener) -> None:
    """Set the function that is called with the limit of each step."""
    _listeners[:] = [listener]
