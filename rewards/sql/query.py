"""The SQL verifier: runs the query of a response and the gold on the same databases and compares what they return.

Results compare as bags of rows (`rewards/sql/results.py`), in order where the gold has an ORDER BY outside all
parentheses; then rows that the gold's sort keys leave tied may stand in any order among themselves. All databases of a
problem must agree. An answer that cannot depend on the data does not count: one that reads no table where the gold
reads one, and, where the gold returns the same on every database given (as with a single one, or when it returns no row
on any), one that shows no new row on any seeded variant of the first database while the gold does. So an answer to a
gold without rows must be able to return some; where no variant decides, it must read the columns the gold reads.

A problem: `schema_sql` (a script) or `database` (the path of an SQLite file), `gold_sql`, and optionally `extra_dbs`
(more scripts, or paths beside `database`), `engine` ("sqlite" or "duckdb"), `columns` ("strict", or "any" for columns
in any order), `partial_credit` (False), `timeout_s` (processor seconds of the answer, SECONDS at most).
"""

import itertools
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rewards.sql import duckdb_engine as sql_duckdb
from rewards.sql import engines as sql_engines
from rewards.sql.engines import CACHE_LIMIT, ROW_LIMIT, Cache, Clock, Database, Result, Row
from rewards.sql.gold import is_ordered, literals, sort_keys
from rewards.sql.results import runs, same_bag, same_results, share_in_common
from rewards.sql.text import QueryFailed, extract, statements
from rewards.sql.variants import STYLES, variant
from rewards.verdict import Verdict, correct, grader_error, wrong

SECONDS = 2.0
"""Processor time for building databases and running the gold on them, and as much again for the answer."""
GOLD_WALL_S = 2.4
CHECK_WALL_S = 4.4
"""Since the start of the check; below the pool's deadline, so that a slow gold is not taken for a slow answer."""
VARIANTS = 2 * len(STYLES)
HOLLOW = ("nulls", "empty")
"""Styles of variants under which a constant, too, may vanish or become NULL."""
VARIANT_LIMIT = 200_000
"""Characters of a script, or bytes of a database file, above which no variants are made."""
PARTIAL = 0.5
"""Of the share of rows in common, what a wrong answer gets with `partial_credit`."""
NOW = re.compile(r"\b(?:now|today|current_[a-z]+|localtime[a-z]*)\b", re.IGNORECASE)
"""In golds that may depend on the time, whose results are not kept."""


class GoldFailed(Exception):
    """The problem, not the answer, is at fault."""


@dataclass(frozen=True)
class Problem:
    databases: tuple[Database, ...]
    gold: str
    engine: str
    any_columns: bool
    partial_credit: bool
    seconds: float


@dataclass(frozen=True)
class Expected:
    """What the gold returns on one database; `blocks` are the lengths of runs of tied rows, None without order."""

    result: Result
    blocks: tuple[int, ...] | None


GOLDS = Cache(CACHE_LIMIT)


def verify(answer: str, problem: Mapping[str, Any]) -> Verdict:
    """Correct if the one query of a response returns what `problem["gold_sql"]` returns, on every database."""
    started = time.monotonic()
    try:
        known = read_problem(problem)
        clock = Clock(SECONDS, started + GOLD_WALL_S)
        golds = [_expected(database, known.gold, clock) for database in known.databases]
        if len({len(gold.result.columns) for gold in golds}) > 1:
            raise GoldFailed("gold_sql: returns different numbers of columns on different databases")
    except (ValueError, GoldFailed) as error:
        return grader_error(str(error))
    clock = Clock(known.seconds, started + CHECK_WALL_S)
    try:
        query = extract(answer, known.engine)
        results = []
        for database, gold in zip(known.databases, golds, strict=True):
            results.append(_answer(database, query, gold, known, clock))
            if not _agree(gold, results[-1], known.any_columns):
                return _differs(gold, results[-1], known)
        if _is_constant(known, query, golds, results, clock):
            return wrong("the result does not depend on the data")
    except QueryFailed as error:
        return Verdict(reward=0.0, status=error.status, reason=error.reason)
    return correct()


def check_problem(problem: Mapping[str, Any]) -> list[str]:
    """What is wrong with a problem, in words; nothing if it can be used.

    A gold must be one query that runs within the limits, returns the same again, and a row on some database; where it
    leaves open which rows it returns (a LIMIT without a full order), a right answer may be counted wrong.
    """
    clock = Clock(SECONDS, time.monotonic() + GOLD_WALL_S)
    try:
        known = read_problem(problem)
        golds = [_expected(database, known.gold, clock) for database in known.databases]
        if not any(gold.result.rows for gold in golds):
            return ["gold_sql: must return a row on at least one database"]
        for database, gold in zip(known.databases, golds, strict=True):
            again = _run(database, known.gold, clock, trusted=True, reverse=True)
            if not _agree(gold, again, any_columns=False):
                return ["gold_sql: must not depend on the order in which rows are read"]
    except (ValueError, GoldFailed) as error:
        return [str(error)]
    except QueryFailed as error:
        return [f"gold_sql: must run within the limits, got {error.reason}"]
    verdict = verify(known.gold, problem)
    return [] if verdict.status == "correct" else [f"gold_sql: must be correct itself, got {verdict.reason}"]


def read_problem(problem: Mapping[str, Any]) -> Problem:
    """Raises ValueError naming the field that is wrong."""
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
        raise ValueError("schema_sql: must be a string, or else database must be one")
    if path is not None and engine == "duckdb":
        raise ValueError("database: must be left out with engine duckdb, which takes schema_sql")
    if not (isinstance(extra, list | tuple) and all(isinstance(item, str) for item in extra)):
        raise ValueError("extra_dbs: must be a list of strings")
    if not (isinstance(seconds, int | float) and seconds > 0):
        raise ValueError(f"timeout_s: must be a number above 0, got {seconds!r:.100}")
    found = statements(gold, engine)
    if len(found) != 1:
        raise ValueError(f"gold_sql: must be one statement, got {len(found)}")
    sources = [source for source in (script, path, *extra) if isinstance(source, str)]
    databases = tuple(Database(engine, s) if path is None else Database(engine, None, s) for s in sources)
    partial = bool(problem.get("partial_credit"))
    return Problem(databases, found[0], engine, columns == "any", partial, min(seconds, SECONDS))


def _run(database: Database, query: str, clock: Clock, **options: Any) -> Result:
    engine = sql_duckdb if database.engine == "duckdb" else sql_engines
    return engine.run(database, query, clock, **options)


def _expected(database: Database, gold: str, clock: Clock) -> Expected:
    """What the gold returns, run twice and then kept. Raises GoldFailed."""
    key = (database.key, gold)
    found: Expected | None = GOLDS.get(key)
    if found is not None:
        return found
    try:
        result, again = (_run(database, gold, clock, trusted=True) for _ in range(2))
    except QueryFailed as error:
        raise GoldFailed(f"gold_sql: must run within the limits, got {error.reason}") from None
    ordered = is_ordered(gold, database.engine)
    if not (result.rows == again.rows if ordered else same_bag(result.rows, again.rows)):
        raise GoldFailed("gold_sql: must return the same when run again")
    found = Expected(result, _blocks(database, gold, result, clock) if ordered else None)
    if not NOW.search(gold):
        GOLDS.put(key, found, 200 + sum(100 + 60 * len(row) for row in result.rows) + result.size)
    return found


def _blocks(database: Database, gold: str, result: Result, clock: Clock) -> tuple[int, ...]:
    """Lengths of the runs of rows tied on the gold's sort keys; 1 each where the keys are not to be had."""
    single = (1,) * len(result.rows)
    keys = sort_keys(gold, result.columns, database.engine)
    if keys is None:
        return single
    rows = result.rows
    if keys.query != gold:
        try:
            rows = _run(database, keys.query, clock, trusted=True).rows
        except QueryFailed:
            return single
    width = len(result.columns)
    if [row[:width] for row in rows] != result.rows or any(max(keys.places) >= len(row) for row in rows):
        return single
    return runs([tuple(row[place] for place in keys.places) for row in rows])


def _answer(database: Database, query: str, gold: Expected, known: Problem, clock: Clock) -> Result:
    rows = ROW_LIMIT if known.partial_credit else len(gold.result.rows)
    return _run(database, query, clock, rows=rows, width=len(gold.result.columns))


def _agree(gold: Expected, result: Result, any_columns: bool) -> bool:
    return len(result.columns) == len(gold.result.columns) and same_results(
        gold.result.rows, gold.blocks, result.rows, any_columns
    )


def _differs(gold: Expected, result: Result, known: Problem) -> Verdict:
    """Why a result is wrong, and what it gets."""
    if len(result.columns) != len(gold.result.columns):
        return wrong("returns another number of columns")
    if gold.blocks is not None and same_results(gold.result.rows, None, result.rows, known.any_columns):
        reason = "returns the rows in another order"
    else:
        reason = "returns other rows"
    reward = PARTIAL * share_in_common(gold.result.rows, result.rows) if known.partial_credit else 0.0
    return Verdict(reward=reward, status="wrong", reason=reason)


def _is_constant(known: Problem, query: str, golds: list[Expected], results: list[Result], clock: Clock) -> bool:
    """Whether an answer that agrees with the gold on every database can be told to do so whatever the data are."""
    first = golds[0].result
    if any(gold.result.reads for gold in golds) and not any(result.reads for result in results):
        return True
    if any(not same_bag(first.rows, gold.result.rows) for gold in golds):
        return False
    decided = False
    asked = literals(known.gold, known.engine)
    for database in _telling_variants(known, first.rows, (asked, asked + literals(query, known.engine)), clock):
        decided = True
        try:
            result = _run(database, query, clock, width=len(first.columns))
        except QueryFailed:
            return False
        if _new(first.rows, result.rows):
            return False
    columns = {(table, column) for table, column in first.reads if column}
    return decided or not (first.rows or columns <= results[0].reads)


def _telling_variants(
    known: Problem, rows: list[Row], sprinkled: tuple[list[Any], ...], clock: Clock
) -> Iterator[Database]:
    """Variants of the first database on which the gold returns a row it did not return there; `sprinkled` are lists of
    values that go into them, one list after the other."""
    script = sql_engines.dump(known.databases[0], VARIANT_LIMIT, clock) if known.engine == "sqlite" else None
    if script is None:
        return
    for values, seed in itertools.product(sprinkled, range(VARIANTS)):
        if (rows and STYLES[seed % len(STYLES)] in HOLLOW) or clock.expired():
            continue
        key = (known.databases[0].key, "variant", tuple(values), seed)
        varied: str | None = GOLDS.get(key)
        try:
            if varied is None:
                varied = variant(script, seed, values)
                GOLDS.put(key, varied, len(varied))
            database = Database(known.engine, varied)
            if _new(rows, _expected(database, known.gold, clock).result.rows):
                yield database
        except (sqlite3.Error, sqlite3.Warning, MemoryError, OverflowError, GoldFailed):
            continue  # a variant that cannot be made tells nothing


def _new(rows: list[Row], later: list[Row]) -> bool:
    return bool(set(later) - set(rows))
