"""Compare the standard output of a program with the expected one. Output is untrusted: nothing in it is evaluated."""

import re
from collections.abc import Callable, Mapping

TOLERANCE = 1e-6
"""Largest difference from an expected decimal number, absolute or relative to it."""
NUMBER = re.compile(rb"[+-]?(?:[0-9]{1,40}(\.[0-9]{0,40})?|(\.[0-9]{1,40}))([eE][+-]?[0-9]{1,3})?")
"""Numbers that are compared by value. The limits on digits bound the time and the memory that reading one takes."""


def same_output(output: bytes, expected: bytes) -> bool:
    """Compare line by line. Blanks at the end of a line and blank lines at the end are ignored."""
    return _lines(output) == _lines(expected)


def same_tokens(output: bytes, expected: bytes) -> bool:
    """Compare line by line, and each line token by token.

    A token is text between blanks. Two tokens are equal if they are the same text, or numbers of the same value. An
    expected number with a point or an exponent has a tolerance of TOLERANCE.

    Example: `0.333333` is `0.3333333`, and `2.0` is `2`, but `1000001` is not `1000000`.
    """
    found, wanted = _lines(output), _lines(expected)
    return len(found) == len(wanted) and all(map(_same_line, found, wanted))


COMPARISONS: Mapping[str, Callable[[bytes, bytes], bool]] = {"exact": same_output, "tokens": same_tokens}
"""Comparisons of output by their name in a problem."""


def _same_line(found: bytes, wanted: bytes) -> bool:
    if found == wanted:
        return True
    tokens, expected = found.split(), wanted.split()
    return len(tokens) == len(expected) and all(map(_same_token, tokens, expected))


def _same_token(found: bytes, wanted: bytes) -> bool:
    if found == wanted:
        return True
    one, other = NUMBER.fullmatch(found), NUMBER.fullmatch(wanted)
    if one is None or other is None:
        return False
    if not any(one.groups()) and not any(other.groups()):
        return int(found) == int(wanted)
    value, right = float(found), float(wanted)
    if not any(other.groups()):
        return value == right and abs(right) < 2**53
    return abs(value - right) <= TOLERANCE * max(1.0, abs(right))


def _lines(text: bytes) -> list[bytes]:
    lines = [line.rstrip() for line in text.split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines
