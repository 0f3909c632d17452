"""What the text of a gold query tells: whether its rows are ordered and by which keys, and what it compares with.

Gold queries are trusted, so sqlglot, which recurses, may parse them; where it does not know one, order is strict.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from rewards.sql.text import significant

VALUES_LIMIT = 50


def is_ordered(gold: str, engine: str) -> bool:
    """Whether ORDER BY stands outside all parentheses, strings and comments."""
    depth, last = 0, ""
    for token in significant(gold, engine):
        if depth == 0 and last == "ORDER" and token.upper == "BY":
            return True
        depth += (token.text == "(") - (token.text == ")")
        last = token.upper
    return False


def literals(query: str, engine: str) -> list[str | int | float]:
    """The first VALUES_LIMIT short strings and numbers of a query, each once."""
    found: list[str | int | float] = []
    for token in significant(query, engine):
        if token.kind == "string" and len(token.text) <= 100:
            found.append(token.text[1:-1].replace("''", "'"))
        elif token.kind == "number" and re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,15})?", token.text):
            found.append(float(token.text) if "." in token.text else int(token.text))
    return list(dict.fromkeys(found))[:VALUES_LIMIT]


@dataclass(frozen=True)
class SortKeys:
    """Where the values of a gold's sort keys are found: columns `places` of what `query` returns."""

    query: str
    places: tuple[int, ...]


def sort_keys(gold: str, columns: Sequence[str], engine: str) -> SortKeys | None:
    """The sort keys of a gold whose result has these column names; keys that are no output columns are appended to its
    select list. None where that cannot be done: sqlglot does not know the query, or DISTINCT would change.
    """
    try:
        return _sort_keys(gold, columns, engine)
    except (SqlglotError, RecursionError, ValueError, AttributeError):
        return None  # sqlglot does not know everything that engines do


def _sort_keys(gold: str, columns: Sequence[str], engine: str) -> SortKeys | None:
    tree = sqlglot.parse_one(gold, dialect=engine)
    order = tree.args.get("order")
    if not isinstance(tree, exp.Select | exp.SetOperation) or order is None:
        return None
    names = [name.lower() for name in columns]
    selected: list[Any] = [item.unalias() for item in tree.selects]
    starred = len(selected) != len(columns)
    places: list[int] = []
    hidden: list[Any] = []
    for ordered in order.expressions:
        key = ordered.this.this if isinstance(ordered.this, exp.Collate) else ordered.this
        if key.is_int:
            places.append(int(key.name) - 1)
        elif isinstance(key, exp.Column) and not key.table and key.name.lower() in names:
            places.append(names.index(key.name.lower()))
        elif not starred and key in selected:
            places.append(selected.index(key))
        else:
            places.append(len(columns) + len(hidden))
            hidden.append(key)
    if any(place < 0 for place in places):
        return None
    if not hidden:
        return SortKeys(gold, tuple(places))
    if not isinstance(tree, exp.Select) or tree.args.get("distinct"):
        return None
    return SortKeys(tree.select(*hidden, copy=True).sql(dialect=engine), tuple(places))
