"""What a query may cost in one step of C, which no engine can interrupt: refused by its text, before it runs."""

import itertools
import re

from rewards.sql.text import QueryFailed, arguments, significant

SLOW_CALLS = {"instr": 1, "replace": 1, "like": 0, "glob": 0}
"""Functions and operators that may take 0.1 s a call unless the argument at this place is SHORT."""
SLOW_CALLS_LIMIT = 20
"""Of one statement: a row can take all of them between two looks at the clock."""
SHORT = re.compile(r"'[^']{0,32}(?:''[^']{0,32}){0,4}'|[0-9]{1,9}|")
FORMAT = re.compile(r"'(?:[^%]|%(?![^a-zA-Z%]*(?:\*|[0-9]{4})))*'")
LITERAL_ARGUMENTS = {
    # The widths of a format may be neither computed nor large: printf('%.*c', 900000000, 'x') takes 6 seconds.
    "printf": (0, FORMAT),
    "format": (0, FORMAT),
    # Quadratic in the lengths of both.
    "trim": (1, SHORT),
    "ltrim": (1, SHORT),
    "rtrim": (1, SHORT),
}


def check_literals(query: str, engine: str, wanted: dict[str, tuple[int, re.Pattern[str]]]) -> None:
    """Raise QueryFailed unless, in each call of these functions, the argument at this place is one token that matches
    or, if it may be left out, is."""
    places = {name: place for name, (place, _) in wanted.items()}
    for name, argument in arguments(query, engine, places):
        place, pattern = wanted[name]
        if argument is None or not (pattern.fullmatch(argument) or (argument == "" and place > 0)):
            raise QueryFailed("rejected", f"argument {place + 1} of {name} must be a short literal")


def check_slow_calls(query: str) -> None:
    """Raise QueryFailed for too many calls that SQLite may take long for."""
    slow = sum(
        argument is None or not SHORT.fullmatch(argument) for _, argument in arguments(query, "sqlite", SLOW_CALLS)
    )
    found = list(significant(query, "sqlite"))
    for token, following in itertools.pairwise(found):
        operator = token.upper in ("LIKE", "GLOB") and following.text != "("
        slow += operator and not (following.kind == "string" and SHORT.fullmatch(following.text) is not None)
    if slow > SLOW_CALLS_LIMIT:
        raise QueryFailed("rejected", f"more than {SLOW_CALLS_LIMIT} searches for what is no short literal")
