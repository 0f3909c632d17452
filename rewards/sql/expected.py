"""Run gold queries and answers on one database, and compare their results."""

import re
from dataclasses import dataclass
from typing import Any, Protocol

from rewards.sql import duckdb_engine, sqlite_engine
from rewards.sql.execution import CACHE_LIMIT, Cache, Database, Result, TimeBudget
from rewards.sql.gold import is_ordered
from rewards.sql.problem import GOLD_ROWS, SqlProblem
from rewards.sql.results import same_bag, same_results
from rewards.sql.text import QueryFailed
from rewards.sql.ties import tie_lengths
from rewards.steps import begin_step

TIME_DEPENDENT = re.compile(r"\b(?:now|today|current_[a-z]+|localtime[a-z]*)\b", re.IGNORECASE)
"""Found in gold queries that may depend on the current time. Their results are not cached."""
GOLD_FACTOR = 3.0
"""Times the processor seconds of the gold on a database that an answer may take there."""
END_S = 0.6
"""Wall seconds from the end of a time budget until the pool ends the process, in which it can report that itself."""


class GoldRunner(Protocol):
    """Runs a gold query on one database; may raise QueryFailed."""

    def __call__(self, query: str, *, reverse_unordered: bool = False) -> Result: ...


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
    seconds: float
    """Processor time of one run."""

    def answer_budget(self, seconds: float) -> TimeBudget:
        """Return the budget of an answer: `seconds`, or GOLD_FACTOR times those of the gold if that is more."""
        return TimeBudget(max(seconds, GOLD_FACTOR * self.seconds))

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


def gold_runner(database: Database, budget: TimeBudget, rows: int = GOLD_ROWS) -> GoldRunner:
    """Return a function that runs a gold query on a database.

    Args:
        rows: largest number of rows. Above it, the function raises QueryFailed (output_limit).
    """

    def run(query: str, *, reverse_unordered: bool = False) -> Result:
        options: dict[str, Any] = {"trusted": True, "row_limit": rows, "reverse_unordered": reverse_unordered}
        result = run_query(database, query, budget, **options)
        if len(result.rows) > rows:
            raise QueryFailed("output_limit", f"the result has more than {rows} rows")
        return result

    return run


def gold_results(parsed: SqlProblem) -> list[Expected]:
    """Return the results of the gold on the databases of a problem. Raises GoldFailed as `expected` does.

    Each database has a budget of its own, which is used for the first answer to the problem in this process.
    """
    found = []
    for database in parsed.databases:
        budget = TimeBudget(parsed.gold_seconds)
        if (database.key, parsed.gold) not in _cache:
            begin_step(budget.wall_seconds + END_S)
        found.append(expected(database, parsed.gold, budget, parsed.gold_rows))
    return found


def expected(database: Database, gold: str, budget: TimeBudget, rows: int = GOLD_ROWS) -> Expected:
    """Return the result of the gold on a database, from the cache or by running it in both orders of reading rows.

    Args:
        rows: largest number of rows.
    Raises: GoldFailed if the gold fails, or if it gives another result in the same order.
    """
    key = (database.key, gold)
    found: Expected | None = _cache.get(key)
    if found is not None and len(found.result.rows) <= rows:
        return found
    run = gold_runner(database, budget, rows)
    try:
        result = run(gold)
        seconds = budget.used()
        reverse = run(gold, reverse_unordered=True)
        seconds = min(seconds, budget.used() - seconds)  # the first run includes building the database
        ordered = is_ordered(gold, database.engine)
        ties = tie_lengths(gold, result, database.engine, run) if ordered else None
        found = Expected(result, ties, True, seconds)
        if not found.equals(reverse, any_columns=False):
            again = run(gold)
            if not (result.rows == again.rows if ordered else same_bag(result.rows, again.rows)):
                raise GoldFailed("gold_sql: must return the same result when run again")
            found = Expected(result, ties, False, seconds)
    except QueryFailed as error:
        raise GoldFailed(f"gold_sql: must run within the limits, got {error.reason}") from None
    if not TIME_DEPENDENT.search(gold):
        _cache.put(key, found, 200 + sum(100 + 60 * len(row) for row in result.rows) + result.size)
    return found
