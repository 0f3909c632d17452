"""Read properties of a gold query from its text: whether its rows are ordered, its sort keys and its literals.

sqlglot parses gold queries only, since they are trusted: it recurses, so it must not parse answers. If it cannot parse
an ordered gold query, the answer must return all rows in exactly the same order.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from rewards.sql.text import significant

LITERALS_LIMIT = 50
"""Largest number of literals that are read from one query."""


def is_ordered(gold: str, engine: str) -> bool:
    """Return whether the query has an ORDER BY outside all parentheses, strings and comments."""
    depth, last = 0, ""
    for token in significant(gold, engine):
        if depth == 0 and last == "ORDER" and token.upper == "BY":
            return True
        depth += (token.text == "(") - (token.text == ")")
        last = token.upper
    return False


def literals(query: str, engine: str) -> list[str | int | float]:
    """Return the first LITERALS_LIMIT distinct strings (up to 100 characters) and numbers in a query."""
    found: list[str | int | float] = []
    for token in significant(query, engine):
        if token.kind == "string" and len(token.text) <= 100:
            found.append(token.text[1:-1].replace("''", "'"))
        elif token.kind == "number" and re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,15})?", token.text):
            found.append(float(token.text) if "." in token.text else int(token.text))
    return list(dict.fromkeys(found))[:LITERALS_LIMIT]


@dataclass(frozen=True)
class SortKeys:
    """The sort keys of a gold query: the columns with these 0-based indices in the result of `query`."""

    query: str
    indices: tuple[int, ...]


def sort_keys(gold: str, columns: Sequence[str], engine: str) -> SortKeys | None:
    """Return the sort keys of a gold query.

    A key that is not an output column is appended to the select list of the query.

    Args:
        columns: the column names of the gold's result.
    Returns: None if sqlglot cannot parse the query, or if a key cannot be appended, as with DISTINCT or UNION.

    Example: `SELECT a FROM t ORDER BY b` -> query `SELECT a, b FROM t ORDER BY b`, indices (1,).
    """
    try:
        return _sort_keys(gold, columns, engine)
    except (SqlglotError, RecursionError, ValueError, AttributeError):
        return None  # sqlglot does not support everything that the engines support


def _sort_keys(gold: str, columns: Sequence[str], engine: str) -> SortKeys | None:
    tree = sqlglot.parse_one(gold, dialect=engine)
    order = tree.args.get("order")
    if not isinstance(tree, exp.Select | exp.SetOperation) or order is None:
        return None
    names = [name.lower() for name in columns]
    selected: list[Any] = [item.unalias() for item in tree.selects]
    has_star = len(selected) != len(columns)
    indices: list[int] = []
    appended_keys: list[Any] = []
    for ordered in order.expressions:
        key = ordered.this.this if isinstance(ordered.this, exp.Collate) else ordered.this
        if key.is_int:
            indices.append(int(key.name) - 1)
        elif isinstance(key, exp.Column) and not key.table and key.name.lower() in names:
            indices.append(names.index(key.name.lower()))
        elif not has_star and key in selected:
            indices.append(selected.index(key))
        else:
            indices.append(len(columns) + len(appended_keys))
            appended_keys.append(key)
    if any(index < 0 for index in indices):
        return None
    if not appended_keys:
        return SortKeys(gold, tuple(indices))
    if not isinstance(tree, exp.Select) or tree.args.get("distinct"):
        return None
    return SortKeys(tree.select(*appended_keys, copy=True).sql(dialect=engine), tuple(indices))
