"""Variants of a database: the same schema with other rows, so that an answer which is right by accident on one of them
is wrong on the next. A pure function of script and seed.

Rows keep what the schema demands: keys stay unique, references lead to rows, NOT NULL and CHECK hold.
"""

import contextlib
import hashlib
import random
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

STYLES = ("shuffled", "grown", "duplicates", "ties", "nulls", "empty")
"""Seed modulo six picks one: values dealt anew; twice the rows; rows more than once; few distinct values; NULLs; one
table without rows."""
ROW_LIMIT = 200
"""Rows of one table in a variant."""
SECONDS = 1.0
"""Bound on making one variant."""
NULL_SHARE = 0.4
COLUMNS = 'SELECT name, type, "notnull", pk FROM pragma_table_xinfo(?) WHERE hidden = 0'
REFERENCES = 'SELECT "from", "table", "to" FROM pragma_foreign_key_list(?) ORDER BY id, seq'
TABLES = (
    "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND substr(name, 1, 7) <> 'sqlite_'"
)
TRIGGERS = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND sql IS NOT NULL ORDER BY name"


@dataclass(frozen=True)
class Column:
    name: str
    numeric: bool
    nullable: bool
    key: bool
    """Part of the primary key."""
    reference: tuple[str, str] | None
    """Table and column whose values it holds."""


def variants(script: str, count: int, seed: int = 0, values: Sequence[str | int | float] = ()) -> list[str]:
    """`count` scripts, one for each of the seeds from `seed` on."""
    return [variant(script, seed + index, values) for index in range(count)]


def variant(script: str, seed: int, values: Sequence[str | int | float] = ()) -> str:
    """The script of a database with the schema of this script's and other rows.

    `values` are sprinkled over columns of their kind, with their neighbours if they are numbers: those a query compares
    with. Raises sqlite3.Error for a script that SQLite cannot run, or not within SECONDS.
    """
    digest = hashlib.sha256(script.encode("utf-8", "surrogatepass")).hexdigest()
    chance = random.Random(f"{digest}:{seed}")
    until = time.monotonic() + SECONDS
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.set_progress_handler(lambda: time.monotonic() > until, 1_000)
        connection.executescript(script)
        if connection.in_transaction:
            connection.commit()
        connection.execute("PRAGMA foreign_keys=0")
        triggers = connection.execute(TRIGGERS).fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {_quoted(name)}")
        tables = {name: _columns(connection, name) for (name,) in connection.execute(TABLES).fetchall()}
        names = _parents_first(tables)
        style = STYLES[seed % len(STYLES)]
        emptied = chance.choice(names) if style == "empty" and names else None
        for name in names:
            _refill(connection, name, tables[name], "empty" if name == emptied else style, values, chance)
        _repair(connection)
        for _, sql in triggers:
            connection.execute(sql)
        return "\n".join(connection.iterdump())


def _columns(connection: sqlite3.Connection, table: str) -> list[Column]:
    references = {}
    for name, parent, target in connection.execute(REFERENCES, (table,)).fetchall():
        key = [row[0] for row in connection.execute(COLUMNS, (parent,)) if row[3]]
        if target or len(key) == 1:
            references[name.lower()] = (parent, target or key[0])
    found = []
    for name, declared, required, key_place in connection.execute(COLUMNS, (table,)).fetchall():
        stored = [
            row[0]
            for row in connection.execute(
                f"SELECT DISTINCT typeof({_quoted(name)}) FROM {_quoted(table)} WHERE {_quoted(name)} IS NOT NULL"
            )
        ]
        declared_numeric = any(part in declared.upper() for part in ("INT", "REAL", "NUM", "DEC", "FLO", "DOUB"))
        numeric = set(stored) <= {"integer", "real"} if stored else declared_numeric
        found.append(Column(name, numeric, not (required or key_place), bool(key_place), references.get(name.lower())))
    return found


def _parents_first(tables: dict[str, list[Column]]) -> list[str]:
    """Names in an order in which references lead backwards, as far as there is one."""
    order: list[str] = []
    rest = sorted(tables)
    while rest:
        waiting = {name.lower() for name in rest}
        free = [name for name in rest if not _parents(tables[name]) - {name.lower()} & waiting]
        order += free or rest[:1]
        rest = [name for name in rest if name not in order]
    return order


def _parents(columns: list[Column]) -> set[str]:
    return {column.reference[0].lower() for column in columns if column.reference}


def _refill(
    connection: sqlite3.Connection,
    table: str,
    columns: list[Column],
    style: str,
    values: Sequence[str | int | float],
    chance: random.Random,
) -> None:
    names = ", ".join(_quoted(column.name) for column in columns)
    old = connection.execute(f"SELECT {names} FROM {_quoted(table)} LIMIT {ROW_LIMIT}").fetchall()
    pools = [
        _pool(connection, column, [row[i] for row in old], style, values, chance) for i, column in enumerate(columns)
    ]
    count = {"empty": 0, "grown": 2 * len(old) + 2}.get(style, max(3, len(old) + chance.randint(-1, 2)))
    rows: list[tuple[Any, ...]] = []
    for index in range(min(count, ROW_LIMIT)):
        if style == "duplicates" and rows and chance.random() < 0.5:
            row = list(chance.choice(rows))
        else:
            row = [_value(column, pool, style, chance) for column, pool in zip(columns, pools, strict=True)]
        for place, column in enumerate(columns):
            if column.key and not column.reference:
                row[place] = _key(column, old, place, index)
        rows.append(tuple(row))
    connection.execute(f"DELETE FROM {_quoted(table)}")
    marks = ", ".join("?" * len(columns))
    connection.executemany(f"INSERT OR IGNORE INTO {_quoted(table)} ({names}) VALUES ({marks})", rows)


def _repair(connection: sqlite3.Connection) -> None:
    """Delete rows whose reference leads nowhere, until there is none."""
    with contextlib.suppress(sqlite3.OperationalError):  # a reference to what is no key cannot be checked
        while lost := [row for row in connection.execute("PRAGMA foreign_key_check") if row[1] is not None]:
            for table, row, *_ in lost:
                connection.execute(f"DELETE FROM {_quoted(table)} WHERE rowid = ?", (row,))


def _pool(
    connection: sqlite3.Connection,
    column: Column,
    old: list[Any],
    style: str,
    values: Sequence[str | int | float],
    chance: random.Random,
) -> list[Any]:
    """Values a column may take."""
    if column.reference:
        parent, target = map(_quoted, column.reference)
        with contextlib.suppress(sqlite3.Error):
            return [row[0] for row in connection.execute(f"SELECT {target} FROM {parent} WHERE {target} IS NOT NULL")]
    pool = [value for value in old if value is not None]
    if column.numeric:
        numbers = [value for value in values if not isinstance(value, str)]
        spread = [near for value in numbers for near in (value - 1, value, value + 1)]
        high = max(pool, default=1)
        pool = [*pool, *(value + chance.choice((-1, 1)) for value in pool), *spread, 0, high + 1, 2 * high + 3]
        pool = [value for value in pool if abs(value) < 2**63]
    else:
        pool = [*pool, *(value for value in values if isinstance(value, str)), "other"]
    return chance.sample(pool, min(2, len(pool))) if style == "ties" else pool


def _value(column: Column, pool: list[Any], style: str, chance: random.Random) -> Any:
    if not pool or (style == "nulls" and column.nullable and chance.random() < NULL_SHARE):
        return None
    return chance.choice(pool)


def _key(column: Column, old: list[tuple[Any, ...]], place: int, index: int) -> Any:
    """The key of a row: an old one as long as they last, then a new one."""
    if index < len(old):
        return old[index][place]
    if column.numeric:
        return max((row[place] for row in old if row[place] is not None), default=0) + 1 + index - len(old)
    return f"key {index}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
