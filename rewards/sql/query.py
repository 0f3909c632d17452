"""The SQL verifier: run the query of a response and the gold query on the same databases, and compare their results.

Results compare as bags of rows (`rewards/sql/results.py`). If the gold has an ORDER BY outside all parentheses, the
order counts, except among rows that are tied on the gold's sort keys. The results must be equal on every database of
the problem.

An answer whose result cannot depend on the data is wrong. It is one of these:

- the answer reads no table, and the gold reads one;
- the gold returns the same rows on every given database (there may be only one), and on all seeded variants of the
  first database on which the gold returns a new row, the answer returns no new row;
- the gold returns no rows, there is no such variant, and the answer does not read all columns that the gold reads.

Fields of a problem:

- `schema_sql`, a script, or `database`, the path of an SQLite file;
- `gold_sql`;
- optional: `extra_dbs`, more scripts, or more paths with `database`; `engine`, "sqlite" (default) or "duckdb";
  `columns`, "strict" (default) or "any" for columns in any order; `partial_credit`, default False; `timeout_s`,
  processor seconds of the answer, default and maximum SECONDS.
"""

import itertools
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rewards.sql import duckdb_engine, sqlite_engine
from rewards.sql.execution import CACHE_LIMIT, ROW_LIMIT, Cache, Database, Result, Row, TimeBudget
from rewards.sql.gold import is_ordered, literals
from rewards.sql.results import row_overlap, same_bag, same_results
from rewards.sql.text import QueryFailed, canonical, extract, statements
from rewards.sql.ties import cut_tie, tie_lengths
from rewards.sql.variants import STYLES, variant
from rewards.verdict import Verdict, correct, grader_error, wrong

SECONDS = 2.0
"""Processor seconds for building the databases and running the gold, and again for running the answer."""
GOLD_WALL_S = 2.4
"""Deadline of the gold, in wall seconds after the start of the check."""
CHECK_WALL_S = 4.4
"""Deadline of the answer, in wall seconds after the start of the check. Both are below the deadline of the worker pool,
so that the verifier can distinguish a slow gold from a slow answer."""
SEEDS_PER_LIST = 2 * len(STYLES)
"""Number of variants for each list of literals."""
UNINFORMATIVE_STYLES = ("nulls", "empty")
"""Styles of variants on which a constant answer can also change: it can lose its rows or become NULL."""
SCRIPT_LIMIT = 200_000
"""Largest script in characters, or database file in bytes, of which variants are made."""
PARTIAL_CREDIT = 0.5
"""With `partial_credit`, the reward of a wrong answer is this times `row_overlap`."""
TIME_DEPENDENT = re.compile(r"\b(?:now|today|current_[a-z]+|localtime[a-z]*)\b", re.IGNORECASE)
"""Found in gold queries that may depend on the current time. Their results are not cached."""


class GoldFailed(Exception):
    """The gold query of a problem fails, so the verdict is grader_error."""


@dataclass(frozen=True)
class SqlProblem:
    """The validated fields of a problem."""

    databases: tuple[Database, ...]
    gold: str
    engine: str
    any_columns: bool
    partial_credit: bool
    seconds: float


@dataclass(frozen=True)
class Expected:
    """The result of the gold query on one database."""

    result: Result
    tie_lengths: tuple[int, ...] | None
    """Numbers of successive rows that are tied on the sort keys; None if the gold does not order its rows."""


_cache = Cache(CACHE_LIMIT)
"""Results of gold queries, and scripts of variants."""


def verify(answer: str, problem: Mapping[str, Any]) -> Verdict:
    """Return whether the query of a response returns the same as the gold query on every database.

    Args:
        answer: the text of the response.
        problem: the fields are listed at the top of this module.
    Returns: the status is correct, wrong, or grader_error if the problem or its gold fails; no_answer or rejected if
        the response has no query that may run; timeout, memory or output_limit if the query exceeds a limit.

    Example: gold `SELECT COUNT(*) FROM t` and response "SELECT COUNT(1) FROM t" -> correct; "SELECT 3" -> wrong, even
    if t has three rows.
    """
    started = time.monotonic()
    try:
        parsed = _parse_problem(problem)
        budget = TimeBudget(SECONDS, started + GOLD_WALL_S)
        golds = [_expected(database, parsed.gold, budget) for database in parsed.databases]
        if len({len(gold.result.columns) for gold in golds}) > 1:
            raise GoldFailed("gold_sql: must return the same number of columns on every database")
    except (ValueError, GoldFailed) as error:
        return grader_error(str(error))
    budget = TimeBudget(parsed.seconds, started + CHECK_WALL_S)
    try:
        query = extract(answer, parsed.engine)
        results = []
        for database, gold in zip(parsed.databases, golds, strict=True):
            results.append(_run_answer(database, query, gold, parsed, budget))
            if not _equals_gold(gold, results[-1], parsed.any_columns):
                return _wrong_result(gold, results[-1], parsed)
        if _ignores_data(parsed, query, golds, results, budget):
            return wrong("the result does not depend on the data")
    except QueryFailed as error:
        return Verdict(reward=0.0, status=error.status, reason=error.reason)
    return correct(semantic_key=canonical(query, parsed.engine))


def check_problem(problem: Mapping[str, Any]) -> list[str]:
    """Return the faults of a problem; an empty list if it has none.

    The gold must be one query that runs within the limits, returns the same result twice, returns a row on at least one
    database, and does not depend on the order in which rows are read. Where a LIMIT keeps some of several rows that are
    equal in ORDER BY, for example, a right answer could be graded as wrong.
    """
    budget = TimeBudget(SECONDS, time.monotonic() + GOLD_WALL_S)
    try:
        parsed = _parse_problem(problem)
        golds = [_expected(database, parsed.gold, budget) for database in parsed.databases]
        if not any(gold.result.rows for gold in golds):
            return ["gold_sql: must return a row on at least one database"]
        for database, gold in zip(parsed.databases, golds, strict=True):
            again = _run_query(database, parsed.gold, budget, trusted=True, reverse_unordered=True)
            if not _equals_gold(gold, again, any_columns=False):
                return ["gold_sql: must not depend on the order in which rows are read"]
            if cut := cut_tie(parsed.gold, parsed.engine, _runner(database, budget)):
                return [f"gold_sql: its LIMIT must not cut a tie, got {cut} between different rows"]
    except (ValueError, GoldFailed) as error:
        return [str(error)]
    except QueryFailed as error:
        return [f"gold_sql: must run within the limits, got {error.reason}"]
    verdict = verify(parsed.gold, problem)
    return [] if verdict.status == "correct" else [f"gold_sql: must be correct itself, got {verdict.reason}"]


def _parse_problem(problem: Mapping[str, Any]) -> SqlProblem:
    """Validate the fields of a problem. Raises ValueError with the name of the first wrong field."""
    engine = problem.get("engine", "sqlite")
    columns = problem.get("columns", "strict")
    extra = problem.get("extra_dbs") or []
    seconds = problem.get("timeout_s", SECONDS)
    script, path, gold = problem.get("schema_sql"), problem.get("database"), problem.get("gold_sql")
    if engine not in ("sqlite", "duckdb"):
        raise ValueError(f"engine: must be sqlite or duckdb, got {engine!r:.100}")
    if columns not in ("strict", "any"):
        raise ValueError(f"columns: must be strict or any, got {columns!r:.100}")
    if not isinstance(gold, str):
        raise ValueError(f"gold_sql: must be a string, got {gold!r:.100}")
    if isinstance(script, str) == isinstance(path, str):
        raise ValueError("schema_sql: must be a string, or database must be one, but not both")
    if path is not None and engine == "duckdb":
        raise ValueError("database: must be left out with engine duckdb; use schema_sql")
    if not (isinstance(extra, list | tuple) and all(isinstance(item, str) for item in extra)):
        raise ValueError(f"extra_dbs: must be a list of strings, got {extra!r:.100}")
    if not (isinstance(seconds, int | float) and seconds > 0):
        raise ValueError(f"timeout_s: must be a number above 0, got {seconds!r:.100}")
    found = statements(gold, engine)
    if len(found) != 1:
        raise ValueError(f"gold_sql: must be one statement, got {len(found)}")
    sources = [source for source in (script, path, *extra) if isinstance(source, str)]
    databases = tuple(Database(engine, s) if path is None else Database(engine, None, s) for s in sources)
    partial = bool(problem.get("partial_credit"))
    return SqlProblem(databases, found[0], engine, columns == "any", partial, min(seconds, SECONDS))


def _run_query(database: Database, query: str, budget: TimeBudget, **options: Any) -> Result:
    engine = duckdb_engine if database.engine == "duckdb" else sqlite_engine
    return engine.run(database, query, budget, **options)


def _runner(database: Database, budget: TimeBudget) -> Callable[[str], Result]:
    """Return a function that runs a gold query on a database."""
    return lambda query: _run_query(database, query, budget, trusted=True)


def _expected(database: Database, gold: str, budget: TimeBudget) -> Expected:
    """Return the result of the gold on a database, from the cache or by running it twice.

    Raises: GoldFailed if the gold fails or the two results differ.
    """
    key = (database.key, gold)
    found: Expected | None = _cache.get(key)
    if found is not None:
        return found
    try:
        result, again = (_run_query(database, gold, budget, trusted=True) for _ in range(2))
    except QueryFailed as error:
        raise GoldFailed(f"gold_sql: must run within the limits, got {error.reason}") from None
    ordered = is_ordered(gold, database.engine)
    if not (result.rows == again.rows if ordered else same_bag(result.rows, again.rows)):
        raise GoldFailed("gold_sql: must return the same result when run again")
    found = Expected(result, tie_lengths(gold, result, database.engine, _runner(database, budget)) if ordered else None)
    if not TIME_DEPENDENT.search(gold):
        _cache.put(key, found, 200 + sum(100 + 60 * len(row) for row in result.rows) + result.size)
    return found


def _run_answer(database: Database, query: str, gold: Expected, parsed: SqlProblem, budget: TimeBudget) -> Result:
    """Run the answer. A row more than the gold has is enough to see that they differ, unless the overlap is needed."""
    rows = ROW_LIMIT if parsed.partial_credit else len(gold.result.rows)
    return _run_query(database, query, budget, row_limit=rows, column_count=len(gold.result.columns))


def _equals_gold(gold: Expected, result: Result, any_columns: bool) -> bool:
    return len(result.columns) == len(gold.result.columns) and same_results(
        gold.result.rows, gold.tie_lengths, result.rows, any_columns
    )


def _wrong_result(gold: Expected, result: Result, parsed: SqlProblem) -> Verdict:
    """Return the verdict on a result that differs from the gold's, with partial credit if the problem allows it."""
    if len(result.columns) != len(gold.result.columns):
        return wrong("returns a different number of columns")
    if gold.tie_lengths is not None and same_results(gold.result.rows, None, result.rows, parsed.any_columns):
        reason = "returns the rows in a different order"
    else:
        reason = "returns different rows"
    reward = PARTIAL_CREDIT * row_overlap(gold.result.rows, result.rows) if parsed.partial_credit else 0.0
    return Verdict(reward=reward, status="wrong", reason=reason)


def _ignores_data(
    parsed: SqlProblem, query: str, golds: list[Expected], results: list[Result], budget: TimeBudget
) -> bool:
    """Return whether an answer that equals the gold on every database has a result that cannot depend on the data.

    The top of this module lists the cases.
    """
    first = golds[0].result
    if any(gold.result.reads for gold in golds) and not any(result.reads for result in results):
        return True
    if any(not same_bag(first.rows, gold.result.rows) for gold in golds):
        return False
    compared = False
    gold_literals = literals(parsed.gold, parsed.engine)
    literal_lists = (gold_literals, gold_literals + literals(query, parsed.engine))
    for database in _distinguishing_variants(parsed, first.rows, literal_lists, budget):
        compared = True
        try:
            result = _run_query(database, query, budget, column_count=len(first.columns))
        except QueryFailed:
            return False
        if _has_new_row(first.rows, result.rows):
            return False
    columns = {(table, column) for table, column in first.reads if column}
    return compared or not (first.rows or columns <= results[0].reads)


def _distinguishing_variants(
    parsed: SqlProblem, rows: list[Row], literal_lists: tuple[list[Any], ...], budget: TimeBudget
) -> Iterator[Database]:
    """Yield variants of the first database on which the gold returns a row that is not in `rows`.

    Args:
        rows: the gold's rows on the first database.
        literal_lists: each is used in turn as values of the variants.
    """
    script = sqlite_engine.dump_script(parsed.databases[0], SCRIPT_LIMIT, budget) if parsed.engine == "sqlite" else None
    if script is None:
        return
    for literals_used, seed in itertools.product(literal_lists, range(SEEDS_PER_LIST)):
        if (rows and STYLES[seed % len(STYLES)] in UNINFORMATIVE_STYLES) or budget.expired():
            continue
        key = (parsed.databases[0].key, "variant", tuple(literals_used), seed)
        variant_script: str | None = _cache.get(key)
        try:
            if variant_script is None:
                variant_script = variant(script, seed, literals_used)
                _cache.put(key, variant_script, len(variant_script))
            database = Database(parsed.engine, variant_script)
            if _has_new_row(rows, _expected(database, parsed.gold, budget).result.rows):
                yield database
        except (sqlite3.Error, sqlite3.Warning, MemoryError, OverflowError, GoldFailed):
            continue  # a variant on which the gold fails, or that cannot be made, decides nothing


def _has_new_row(rows: list[Row], later_rows: list[Row]) -> bool:
    """Return whether `later_rows` has a row that is not in `rows`."""
    return bool(set(later_rows) - set(rows))
