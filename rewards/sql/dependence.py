"""Whether the result of an answer follows the data, tested on seeded variants of the database.

An answer that equals the gold on the given databases may still be a constant, such as `SELECT 6`, or a constant behind
a condition on the given data, such as `SELECT CASE WHEN count(*) = 8 THEN 6 ELSE 0 END FROM t`, or another question
that has the same result on these data.
"""

import contextlib
import itertools
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
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

SEEDS_PER_LIST = 4 * len(STYLES)
"""Number of variants for each list of literals."""
UNINFORMATIVE_STYLES = ("nulls", "empty")
"""Styles of variants on which a constant answer can also change: it can lose its rows or become NULL."""
LIKELY_STYLES = ("shuffled", "grown", "nulls")
"""Styles of variants on which a right answer is expected to equal the gold: NULLs and equal values are only in columns
in which the stored rows have them."""
ENOUGH_VARIANTS = 4
ENOUGH_ROWS = 3
"""Variants, and new rows of the gold on them in all, from which on an answer with literals of its own must return one
of these rows and another new row."""
COMPARED_VARIANTS = 8
MOST_VARIANTS = 12
"""No more variants are tried after COMPARED_VARIANTS of LIKELY_STYLES, if the answer follows the data or there were
MOST_VARIANTS on which the gold returns a new row."""
FEWEST_COMPARED = 3
"""Variants of LIKELY_STYLES from which on they decide."""
SMALLEST_SHARE = 1 / 2
"""Smallest share of these variants on which a right answer equals the gold. It may differ on few: on those with equal
values at the edge of a LIMIT, for example."""
SENTINELS = (0, "")
"""Literals of an answer, and of a gold with COALESCE or IFNULL, that may stand for NULL. Variants do not have them."""
NULL_REPLACED = re.compile(r"\b(?:coalesce|ifnull)\b", re.IGNORECASE)

_bases = Cache(CACHE_LIMIT)
"""What the variants of a database are made of."""
_variants = Cache(CACHE_LIMIT)
"""Variants and the gold's results on them; None where the gold fails."""


@dataclass(frozen=True)
class Evidence:
    """What the variants say about an answer."""

    fault: str
    """Why the answer is wrong; "" if it is not."""
    compared: int = 0
    """Variants of LIKELY_STYLES on which the gold returns rows that are not those on the given databases, in any order
    of reading."""
    agreed: int = 0
    """Variants among these on which the answer equals the gold."""


@dataclass
class _Tally:
    """What an answer and the gold return on the variants so far."""

    parsed: SqlProblem
    query: str
    base_gold: Expected
    """The gold's result on the given databases."""
    known: set[Row]
    """Its rows."""
    tried: int = 0
    """Variants on which the gold returns a new row: one that it does not return on the given databases."""
    gold_rows: set[Row] = field(default_factory=set)
    answer_rows: set[Row] = field(default_factory=set)
    """New rows on these variants."""
    shares: int = 0
    """Variants among these on which the answer returns one of the gold's new rows."""
    compared: int = 0
    agreed: int = 0
    """As in Evidence."""
    slow: bool = False
    """The answer took too long on the last variant."""

    def add(self, style: str, database: Database, gold: Expected, budget: TimeBudget) -> None:
        """Run the answer on a variant and count, unless the variant decides nothing.

        Args:
            style: that of the variant.
            gold: the gold's result on the variant.
        """
        first = self.base_gold.result
        of_gold = _comparable(gold.result.rows, self.parsed.any_columns) - self.known
        moving = bool(of_gold) and not (self.known and style in UNINFORMATIVE_STYLES)
        usable = bool(first.rows and gold.result.rows) and gold.any_order and not same_bag(first.rows, gold.result.rows)
        compared = style in LIKELY_STYLES and usable
        if not (moving or compared):
            return
        own_budget = self.base_gold.answer_budget(self.parsed.seconds)
        begin_step(budget.wall_seconds + own_budget.wall_seconds + END_S)
        result = Result(first.columns, [], frozenset())
        try:
            result = run_query(database, self.query, own_budget, column_count=len(first.columns))
        except QueryFailed as error:
            self.slow = error.status == "timeout"
        if compared:
            self.compared += 1
            self.agreed += gold.equals(result, self.parsed.any_columns)
        if moving:
            new_rows = _comparable(result.rows, self.parsed.any_columns) - self.known
            self.tried += 1
            self.gold_rows |= of_gold
            self.answer_rows |= new_rows
            self.shares += bool(new_rows & of_gold)


def follow_data(parsed: SqlProblem, query: str, golds: list[Expected], results: list[Result]) -> Evidence:
    """Return whether the result of an answer that equals the gold on every database follows the data as the gold does.

    It does not in these cases:

    - the answer reads no table, and the gold reads one;
    - the gold returns the same rows on every given database (there may be only one), and on all variants on which the
      gold returns a new row, the answer fails or returns no new row;
    - the same, the answer has literals that the gold lacks, and there are ENOUGH_VARIANTS with ENOUGH_ROWS new rows of
      the gold in all: then the answer must return two new rows in all, and one of the gold's new rows, on at least half
      of these variants if one of its literals is a cell of the gold's result on the first database;
    - the gold returns no rows, there is no such variant, and the answer does not read all columns that the gold reads;
    - the gold returns the same rows on every given database, and the answer equals it on less than SMALLEST_SHARE of
      FEWEST_COMPARED variants or more.
    """
    first = golds[0].result
    if any(gold.result.reads for gold in golds) and not any(result.reads for result in results):
        return Evidence("the result does not follow the data")
    if any(not same_bag(first.rows, gold.result.rows) for gold in golds):
        return Evidence("")
    own_literals = bool(_literal_texts(query, parsed.engine) - _literal_texts(parsed.gold, parsed.engine))
    written = set(literals(query, parsed.engine)) - set(literals(parsed.gold, parsed.engine))
    result_written = any(cell in written for row in first.rows for cell in row)
    tally = _Tally(parsed, query, golds[0], _comparable(first.rows, parsed.any_columns))
    moves = False
    budget = TimeBudget(SECONDS)
    begin_step(budget.wall_seconds + END_S)
    source = _base(parsed.databases[0], budget) if parsed.engine == "sqlite" else None
    for style, database, gold in _variants_with_gold(parsed, query, source, budget):
        tally.add(style, database, gold, budget)
        moves = bool(tally.answer_rows)
        if own_literals:
            moves = bool(tally.shares) and len(tally.answer_rows) > 1 and not result_written
        settled = moves or tally.tried >= MOST_VARIANTS
        if tally.slow or (settled and tally.compared >= COMPARED_VARIANTS):
            break
    if not tally.tried:
        columns = {(table, column) for table, column in first.reads if column}
        follows = bool(first.rows) or columns <= results[0].reads
    elif own_literals and (tally.slow or (tally.tried >= ENOUGH_VARIANTS and len(tally.gold_rows) >= ENOUGH_ROWS)):
        follows = moves or (result_written and len(tally.answer_rows) > 1 and 2 * tally.shares >= tally.tried)
    else:
        follows = bool(tally.answer_rows)
    if not follows:
        return Evidence("the result does not follow the data", tally.compared, tally.agreed)
    differs = tally.compared >= FEWEST_COMPARED and tally.agreed < SMALLEST_SHARE * tally.compared
    fault = "the result differs from the gold's on other data" if differs else ""
    return Evidence(fault, tally.compared, tally.agreed)


def _variants_with_gold(
    parsed: SqlProblem, query: str, source: Base | None, budget: TimeBudget
) -> Iterator[tuple[str, Database, Expected]]:
    """Yield variants of the first database, those of LIKELY_STYLES first: the style, and the gold's result there.

    By turns, the variants have values from the literals of the gold, and also from those of the answer.
    """
    if source is None:
        return
    of_gold = literals(parsed.gold, parsed.engine)
    if NULL_REPLACED.search(parsed.gold):
        of_gold = [value for value in of_gold if value not in SENTINELS]
    of_answer = [value for value in literals(query, parsed.engine) if value not in SENTINELS]
    of_both = list(dict.fromkeys(of_gold + of_answer))
    lists = [of_gold, of_both] if of_both != of_gold else [of_gold]
    seeds = sorted(range(SEEDS_PER_LIST), key=lambda seed: STYLES[seed % len(STYLES)] not in LIKELY_STYLES)
    for seed, values in itertools.product(seeds, lists):
        found = None if budget.expired() else _variant_with_gold(parsed, source, seed, values, budget)
        if found is not None:
            yield STYLES[seed % len(STYLES)], *found


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
