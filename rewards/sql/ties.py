"""Rows that are equal on the sort keys of a gold query, and gold queries whose LIMIT cuts through such rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from rewards.sql.execution import Result, Row
from rewards.sql.gold import sort_keys
from rewards.sql.results import run_lengths
from rewards.sql.text import QueryFailed

Run = Callable[[str], Result]
"""Runs a query on one database; may raise QueryFailed."""
BEYOND = 200
"""Rows that are read beyond a LIMIT to compare them with its last row."""


def tie_lengths(gold: str, result: Result, engine: str, run: Run) -> tuple[int, ...]:
    """Return the numbers of successive rows of a gold's result that are tied on its sort keys.

    Every row counts as untied if the keys cannot be determined.
    """
    keys = _keys(gold, result, engine, run)
    return (1,) * len(result.rows) if keys is None else run_lengths(keys)


def cut_tie(gold: str, engine: str, run: Run) -> str:
    """Return the ORDER BY and LIMIT, in the gold or in a query inside it, that keeps some of several different rows
    which are equal on the sort keys. Another right answer may keep the others. Empty if there is none.

    A query inside the gold that does not run alone is not checked.
    """
    for limited in _limited(gold, engine):
        try:
            result = run(limited.query)
            keys = _keys(limited.query, result, engine, run)
        except QueryFailed:
            continue
        start = 0
        for length in run_lengths(keys or []):
            tied = range(start, start + length)
            cut = any(edge in tied[1:] for edge in (limited.first, limited.end))
            if cut and len(set(result.rows[start : start + length])) > 1:
                return limited.text
            start += length
    return ""


@dataclass(frozen=True)
class _Limited:
    """A query with a LIMIT, which keeps the rows from index `first` up to `end`, `end` excluded."""

    query: str
    """Without its OFFSET and with BEYOND more rows."""
    text: str
    first: int
    end: int


def _limited(gold: str, engine: str) -> Iterator[_Limited]:
    """Yield the queries in a gold that have an ORDER BY and a LIMIT of a number."""
    try:
        tree = sqlglot.parse_one(gold, dialect=engine)
        for node in tree.find_all(exp.Select, exp.SetOperation):
            order, limit, offset = (node.args.get(name) for name in ("order", "limit", "offset"))
            count, first = _number(limit), _number(offset) if offset else 0
            if order is None or count is None or first is None:
                continue
            text = " ".join(part.sql(dialect=engine).strip() for part in (order, limit, offset) if part)
            whole = node.copy()
            whole.set("offset", None)
            if node is not tree and tree.args.get("with_") and not node.args.get("with_"):
                whole.set("with_", tree.args["with_"].copy())
            wider = whole.limit(first + count + BEYOND, copy=False)
            yield _Limited(wider.sql(dialect=engine), text, first, first + count)
    except (SqlglotError, RecursionError, ValueError, AttributeError):
        return  # sqlglot does not support everything that the engines support


def _number(limit: Any) -> int | None:
    """Return the number of a LIMIT or OFFSET; None if there is none, or if it is an expression."""
    value = getattr(limit, "expression", None)
    return int(value.name) if isinstance(value, exp.Literal) and value.is_int else None


def _keys(query: str, result: Result, engine: str, run: Run) -> list[Row] | None:
    """Return the sort keys of each row of a query's result; None if they cannot be determined."""
    found = sort_keys(query, result.columns, engine)
    if found is None:
        return None
    rows = result.rows
    if found.query != query:
        try:
            rows = run(found.query).rows
        except QueryFailed:
            return None
    if [row[: len(result.columns)] for row in rows] != result.rows:
        return None
    if rows and max(found.indices) >= len(rows[0]):
        return None
    return [tuple(row[index] for index in found.indices) for row in rows]
