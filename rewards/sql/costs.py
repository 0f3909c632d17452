"""Reject queries with calls that may take long in a single step in C, which the engines cannot interrupt.

The checks read the text of the query before it runs.
"""

import itertools
import re

from rewards.sql.text import QueryFailed, arguments, significant

SLOW_CALLS = {"instr": 1, "replace": 1, "like": 0, "glob": 0}
"""Functions and operators of SQLite that may take 0.1 s per call unless the argument at this index is SHORT_LITERAL."""
SLOW_CALLS_LIMIT = 20
"""Largest number of these calls in one statement: one row can run all of them between two checks of the time budget."""
SHORT_LITERAL = re.compile(r"'[^']{0,32}(?:''[^']{0,32}){0,4}'|[0-9]{1,9}|")
"""A short string or number, or nothing."""
FORMAT = re.compile(r"'(?:[^%]|%(?![^a-zA-Z%]*(?:\*|[0-9]{4})))*'")
"""A literal format string without `*` and without a width of four digits or more."""
LITERAL_ARGUMENTS = {
    # The width in a format must be a small literal: printf('%.*c', 900000000, 'x') takes 6 seconds.
    "printf": (0, FORMAT),
    "format": (0, FORMAT),
    # These take time quadratic in the lengths of both arguments.
    "trim": (1, SHORT_LITERAL),
    "ltrim": (1, SHORT_LITERAL),
    "rtrim": (1, SHORT_LITERAL),
}


def check_literals(query: str, engine: str, allowed: dict[str, tuple[int, re.Pattern[str]]]) -> None:
    """Check the arguments that determine the cost of a call.

    Args:
        allowed: for each function, the index of the argument and the pattern that it must match as one token. An
            argument with an index above 0 may be left out.
    Raises: QueryFailed (rejected).
    """
    indices = {name: index for name, (index, _) in allowed.items()}
    for name, argument in arguments(query, engine, indices):
        index, pattern = allowed[name]
        if argument is None or not (pattern.fullmatch(argument) or (argument == "" and index > 0)):
            raise QueryFailed("rejected", f"argument {index + 1} of {name} must be a short literal")


def check_slow_calls(query: str) -> None:
    """Raise QueryFailed (rejected) if a query has more than SLOW_CALLS_LIMIT calls that may take SQLite long."""
    slow_calls = sum(
        argument is None or not SHORT_LITERAL.fullmatch(argument)
        for _, argument in arguments(query, "sqlite", SLOW_CALLS)
    )
    tokens = list(significant(query, "sqlite"))
    for token, following in itertools.pairwise(tokens):
        operator = token.upper in ("LIKE", "GLOB") and following.text != "("
        slow_calls += operator and not (
            following.kind == "string" and SHORT_LITERAL.fullmatch(following.text) is not None
        )
    if slow_calls > SLOW_CALLS_LIMIT:
        raise QueryFailed(
            "rejected", f"more than {SLOW_CALLS_LIMIT} calls of {', '.join(SLOW_CALLS)} without a short literal"
        )
