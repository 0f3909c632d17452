"""Whether the result of an answer follows the data, tested on seeded variants of the database.

An answer that equals the gold on the given databases may still be a constant, such as `SELECT 6`, or a constant behind
a condition on the given data, such as `SELECT CASE WHEN count(*) = 8 THEN 6 ELSE 0 END FROM t`.
"""

import contextlib
import itertools
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rewards.sql.execution import CACHE_LIMIT, Cache, Database, Result, Row, TimeBudget
from rewards.sql.expected import END_S, Expected, GoldFailed, expected, run_query
from rewards.sql.gold import literals
from rewards.sql.problem import SECONDS, SqlProblem
from rewards.sql.results import same_bag
from rewards.sql.sqlite_engine import connect
from rewards.sql.text import QueryFailed, significant
from rewards.sql.variants import STYLES, Base, base, variant
from rewards.steps import begin_step

SEEDS_PER_LIST = 2 * len(STYLES)
"""Number of variants for each list of literals."""
UNINFORMATIVE_STYLES = ("nulls", "empty")
"""Styles of variants on which a constant answer can also change: it can lose its rows or become NULL."""
ENOUGH_VARIANTS = 4
ENOUGH_ROWS = 3
"""Variants, and new rows of the gold on them in all, from which on an answer with literals of its own must return one
of these rows and another new row."""

_bases = Cache(CACHE_LIMIT)
"""What the variants of a database are made of."""
_variants = Cache(CACHE_LIMIT)
"""Variants and the gold's results on them; None where the gold fails."""


@dataclass(frozen=True)
class Evidence:
    """What the variants say about an answer."""

    follows: bool
    """Whether its result follows the data."""
    tried: int = 0
    """Variants on which the gold returns a row that it does not return on the given databases."""
    agreed: int = 0
    """Variants among these on which the answer equals the gold."""


def follow_data(parsed: SqlProblem, query: str, golds: list[Expected], results: list[Result]) -> Evidence:
    """Return whether the result of an answer that equals the gold on every database follows the data.

    It does not in these cases:

    - the answer reads no table, and the gold reads one;
    - the gold returns the same rows on every given database (there may be only one), and on all variants on which the
      gold returns a new row, the answer fails or returns no new row;
    - the same, the answer has literals that the gold lacks, and there are ENOUGH_VARIANTS with ENOUGH_ROWS new rows of
      the gold in all: then the answer must return two new rows in all, and one of the gold's new rows, on at least half
      of these variants if one of its literals is a cell of the gold's result on the first database;
    - the gold returns no rows, there is no such variant, and the answer does not read all columns that the gold reads.
    """
    first = golds[0].result
    if any(gold.result.reads for gold in golds) and not any(result.reads for result in results):
        return Evidence(False)
    if any(not same_bag(first.rows, gold.result.rows) for gold in golds):
        return Evidence(True)
    known = _comparable(first.rows, parsed.any_columns)
    own_literals = bool(_literal_texts(query, parsed.engine) - _literal_texts(parsed.gold, parsed.engine))
    written = set(literals(query, parsed.engine)) - set(literals(parsed.gold, parsed.engine))
    result_written = any(cell in written for row in first.rows for cell in row)
    gold_rows: set[Row] = set()
    answer_rows: set[Row] = set()
    tried = agreed = shares = 0
    slow = False
    budget = TimeBudget(SECONDS)
    begin_step(budget.wall_seconds + END_S)
    for database, gold in _distinguishing(parsed, query, known, budget):
        own_budget = golds[0].answer_budget(parsed.seconds)
        begin_step(budget.wall_seconds + own_budget.wall_seconds + END_S)
        result = Result(first.columns, [], frozenset())
        try:
            result = run_query(database, query, own_budget, column_count=len(first.columns))
        except QueryFailed as error:
            slow = error.status == "timeout"
        tried += 1
        agreed += gold.equals(result, parsed.any_columns)
        new_rows = _comparable(result.rows, parsed.any_columns) - known
        of_gold = _comparable(gold.result.rows, parsed.any_columns) - known
        gold_rows |= of_gold
        answer_rows |= new_rows
        shares += bool(new_rows & of_gold)
        if (shares and len(answer_rows) > 1 and not result_written) if own_literals else answer_rows:
            return Evidence(True, tried, agreed)
        if slow:
            break
    if not tried:
        columns = {(table, column) for table, column in first.reads if column}
        return Evidence(bool(first.rows) or columns <= results[0].reads)
    enough = slow or (tried >= ENOUGH_VARIANTS and len(gold_rows) >= ENOUGH_ROWS)
    if own_literals and enough:
        return Evidence(result_written and len(answer_rows) > 1 and 2 * shares >= tried, tried, agreed)
    return Evidence(bool(answer_rows), tried, agreed)


def _distinguishing(
    parsed: SqlProblem, query: str, known: set[Row], budget: TimeBudget
) -> Iterator[tuple[Database, Expected]]:
    """Yield variants of the first database on which the gold returns a row that is not known, and its result there.

    The variants have values from the literals of the gold, then also from those of the answer.
    """
    source = _base(parsed.databases[0], budget) if parsed.engine == "sqlite" else None
    if source is None:
        return
    of_gold = literals(parsed.gold, parsed.engine)
    of_both = list(dict.fromkeys(of_gold + literals(query, parsed.engine)))
    lists = [of_gold, of_both] if of_both != of_gold else [of_gold]
    for values, seed in itertools.product(lists, range(SEEDS_PER_LIST)):
        if (known and STYLES[seed % len(STYLES)] in UNINFORMATIVE_STYLES) or budget.expired():
            continue
        found = _variant_with_gold(parsed, source, seed, values, budget)
        if found is not None and _comparable(found[1].result.rows, parsed.any_columns) - known:
            yield found


def _variant_with_gold(
    parsed: SqlProblem, source: Base, seed: int, values: list[Any], budget: TimeBudget
) -> tuple[Database, Expected] | None:
    """Return a variant of the first database and the gold's result on it, from the cache; None if the variant cannot
    be made or the gold fails on it. Then it decides nothing."""
    key = (parsed.databases[0].key, parsed.gold, tuple(values), seed)
    if key in _variants:
        cached: tuple[Database, Expected] | None = _variants.get(key)
        return cached
    found, seconds = None, budget.seconds_left()
    with contextlib.suppress(sqlite3.Error, sqlite3.Warning, MemoryError, OverflowError, GoldFailed):
        database = Database(parsed.engine, None, image=variant(source, seed, values))
        found = database, expected(database, parsed.gold, budget)
    if found is not None or seconds > budget.seconds / 2:  # A gold that had little time left is tried again.
        _variants.put(key, found, 200 + (len(found[0].image) + found[1].result.size if found else 0))
    return found


def _base(database: Database, budget: TimeBudget) -> Base | None:
    """Return what the variants of a database are made of, from the cache; None if it has no tables or is unreadable."""
    found: Base | None = _bases.get(database.key)
    if found is None:
        with contextlib.suppress(sqlite3.Error, sqlite3.Warning, MemoryError, QueryFailed):
            with contextlib.closing(connect(database, budget)) as connection:
                found = base(connection)
            _bases.put(database.key, found, found.size)
    return found if found is not None and found.columns else None


def _literal_texts(query: str, engine: str) -> set[str]:
    return {token.text for token in significant(query, engine) if token.kind in ("string", "number")}


def _comparable(rows: list[Row], any_columns: bool) -> set[Row]:
    """Return the rows with numbers of nine digits, and with `any_columns` with their cells in one order."""
    rounded = (tuple(float(f"{cell:.9g}") if isinstance(cell, float) else cell for cell in row) for row in rows)
    return {tuple(sorted(row, key=_order)) if any_columns else row for row in rounded}


def _order(cell: Any) -> tuple[str, Any]:
    return ("", cell) if isinstance(cell, int | float) else (type(cell).__name__, repr(cell))
