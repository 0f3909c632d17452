"""Run gold queries and answers on one database, and compare their results."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rewards.sql import duckdb_engine, sqlite_engine
from rewards.sql.execution import CACHE_LIMIT, Cache, Database, Result, TimeBudget
from rewards.sql.gold import is_ordered
from rewards.sql.results import same_bag, same_results
from rewards.sql.text import QueryFailed
from rewards.sql.ties import tie_lengths

TIME_DEPENDENT = re.compile(r"\b(?:now|today|current_[a-z]+|localtime[a-z]*)\b", re.IGNORECASE)
"""Found in gold queries that may depend on the current time. Their results are not cached."""


class GoldFailed(Exception):
    """The gold query of a problem fails, so the verdict is grader_error."""


@dataclass(frozen=True)
class Expected:
    """The result of the gold query on one database."""

    result: Result
    tie_lengths: tuple[int, ...] | None
    """Numbers of successive rows that are tied on the sort keys; None if the gold does not order its rows."""
    any_order: bool
    """Whether the result is the same if SQLite reads rows without an ORDER BY in reverse order."""

    def equals(self, result: Result, any_columns: bool) -> bool:
        """Return whether a result is equal to that of the gold, optionally with its columns in any order."""
        same_width = len(result.columns) == len(self.result.columns)
        return same_width and same_results(self.result.rows, self.tie_lengths, result.rows, any_columns)


_cache = Cache(CACHE_LIMIT)
"""Results of gold queries by database and query."""


def run_query(database: Database, query: str, budget: TimeBudget, **options: Any) -> Result:
    """Run a query in the engine of the database. Arguments and errors are those of `sqlite_engine.run`."""
    engine = duckdb_engine if database.engine == "duckdb" else sqlite_engine
    return engine.run(database, query, budget, **options)


def gold_runner(database: Database, budget: TimeBudget) -> Callable[[str], Result]:
    """Return a function that runs a gold query on a database."""
    return lambda query: run_query(database, query, budget, trusted=True)


def expected(database: Database, gold: str, budget: TimeBudget) -> Expected:
    """Return the result of the gold on a database, from the cache or by running it in both orders of reading rows.

    Raises: GoldFailed if the gold fails, or if it gives another result in the same order.
    """
    key = (database.key, gold)
    found: Expected | None = _cache.get(key)
    if found is not None:
        return found
    run = gold_runner(database, budget)
    try:
        result = run(gold)
        reverse = run_query(database, gold, budget, trusted=True, reverse_unordered=True)
        ordered = is_ordered(gold, database.engine)
        found = Expected(result, tie_lengths(gold, result, database.engine, run) if ordered else None, True)
        if not found.equals(reverse, any_columns=False):
            again = run(gold)
            if not (result.rows == again.rows if ordered else same_bag(result.rows, again.rows)):
                raise GoldFailed("gold_sql: must return the same result when run again")
            found = Expected(result, found.tie_lengths, any_order=False)
    except QueryFailed as error:
        raise GoldFailed(f"gold_sql: must run within the limits, got {error.reason}") from None
    if not TIME_DEPENDENT.search(gold):
        _cache.put(key, found, 200 + sum(100 + 60 * len(row) for row in result.rows) + result.size)
    return found
