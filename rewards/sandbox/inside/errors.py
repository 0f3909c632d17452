"""Exceptions of the program, as the tests' box raises them."""

import builtins
from typing import Any

NEVER_RERAISED = (AssertionError, StopIteration, StopAsyncIteration, BaseExceptionGroup)
"""Exceptions of the program that are replaced by ProgramError. The tests could take them for a failed assertion of
their own, or for the end of a loop."""
KNOWN_ERRORS = {
    "json.decoder.JSONDecodeError": "json",
    "decimal.InvalidOperation": "decimal",
    "decimal.DivisionByZero": "decimal",
    "re.error": "re",
    "queue.Empty": "queue",
    "queue.Full": "queue",
    "struct.error": "struct",
    "binascii.Error": "binascii",
    "zlib.error": "zlib",
    "statistics.StatisticsError": "statistics",
    "dataclasses.FrozenInstanceError": "dataclasses",
}
"""Exceptions outside `builtins` that are raised again under their own class: full name, and module."""


class ProgramLost(BaseException):
    """The program's box has ended or sent a malformed message.

    It is a BaseException, so that `except Exception` in a test does not catch it. If a test catches it anyway, the
    verdict is still that the program was lost.
    """


class ProgramError(Exception):
    """The program raised an exception that is not raised again under its own class."""


def stand_in(name: str, bases: Any) -> type[Exception]:
    """Make a class for an exception class of the program, below its first usable built-in base.

    Args:
        bases: the full names of the base classes, as the program sent them.
    """
    base: Any = Exception
    for known in bases:
        found = getattr(builtins, known.removeprefix("builtins."), None) if type(known) is str else None
        if isinstance(found, type) and issubclass(found, Exception) and not issubclass(found, NEVER_RERAISED):
            base = found
            break
    show = {"__str__": lambda error: error.__dict__.get("program_text", base.__str__(error))}
    return type(name, (base,), show)
