"""Make variants of a database: the same schema with other rows.

An answer that is right by accident on one database is likely to be wrong on a variant. A variant is a pure function of
the database, the seed and the literals. Its rows satisfy the schema: keys are unique, references point to existing
rows, and NOT NULL and CHECK constraints hold.
"""

import contextlib
import hashlib
import random
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rewards.sql.execution import row_size

STYLES = ("shuffled", "grown", "duplicates", "ties", "nulls", "empty")
"""The style of a variant is STYLES[seed % 6]. All styles draw values at random. In addition, `grown` has twice the
rows, `duplicates` repeats rows, `ties` has at most two distinct values in a column, `nulls` has many NULLs, and `empty`
has one table without rows."""
ROW_LIMIT = 200
"""Largest number of rows of one table in a variant, and of a table from which values are drawn."""
SECONDS_LIMIT = 1.0
"""Largest wall seconds for making one variant."""
NULL_FRACTION = 0.4
"""Probability of NULL in a nullable column, in the style `nulls`."""
COLUMNS = 'SELECT name, type, "notnull", pk FROM pragma_table_xinfo(?) WHERE hidden = 0'
REFERENCES = 'SELECT "from", "table", "to" FROM pragma_foreign_key_list(?) ORDER BY id, seq'
TABLES = (
    "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND substr(name, 1, 7) <> 'sqlite_'"
)
SCHEMA = "SELECT type, sql FROM sqlite_master WHERE sql IS NOT NULL AND substr(name, 1, 7) <> 'sqlite_' ORDER BY rowid"


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    numeric: bool
    nullable: bool
    key: bool
    """The column is part of the primary key."""
    reference: tuple[str, str] | None
    """The table and column that a foreign key refers to."""


@dataclass(frozen=True)
class Base:
    """What the variants of a database are made of."""

    image: bytes
    """The schema without rows and without triggers, as the bytes of an SQLite file; empty without tables."""
    triggers: tuple[str, ...]
    """Statements that create the triggers."""
    columns: dict[str, list[Column]]
    """Columns by table. A table comes after those it refers to, except in a cycle."""
    rows: dict[str, list[tuple[Any, ...]]]
    """The first ROW_LIMIT rows of each table, in the order of its columns."""

    @property
    def size(self) -> int:
        """Bytes, estimated as in `row_size`."""
        return len(self.image) + sum(row_size(row) for rows in self.rows.values() for row in rows)


def base(source: sqlite3.Connection) -> Base:
    """Read the schema and some rows of a database. Takes no longer for a large database than for a small one.

    Raises: sqlite3.Error if the schema cannot be read.
    """
    source.text_factory = lambda data: data.decode("utf-8", "replace")
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as schema:
        triggers = []
        for kind, statement in source.execute(SCHEMA).fetchall():
            if kind == "trigger":
                triggers.append(statement)
                continue
            with contextlib.suppress(sqlite3.Error):  # such as a shadow table, which its virtual table has created
                schema.execute(statement)
        columns: dict[str, list[Column]] = {}
        rows: dict[str, list[tuple[Any, ...]]] = {}
        for (name,) in schema.execute(TABLES).fetchall():
            names = [row[0] for row in schema.execute(COLUMNS, (name,))]
            listed = ", ".join(map(_quoted, names))
            rows[name] = source.execute(f"SELECT {listed} FROM {_quoted(name)} LIMIT {ROW_LIMIT}").fetchall()
            columns[name] = _columns(schema, name, rows[name])
        image = schema.serialize() if columns else b""  # a database of nothing cannot be serialised
        return Base(image, tuple(triggers), {n: columns[n] for n in _parents_first(columns)}, rows)


def variant(base: Base, seed: int, literals: Sequence[str | int | float] = ()) -> bytes:
    """Return a database with the schema of a base with tables and other rows, as the bytes of an SQLite file.

    Args:
        seed: determines the style and the random values.
        literals: also used as values of text or numeric columns, and for a number n also n - 1 and n + 1. If they are
            the literals of a query, some rows satisfy its conditions.
    Raises: sqlite3.Error if SQLite needs more than SECONDS_LIMIT.
    """
    rng = random.Random(f"{hashlib.sha256(base.image).hexdigest()}:{seed}")
    deadline = time.monotonic() + SECONDS_LIMIT
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.deserialize(base.image)
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 1_000)
        connection.execute("PRAGMA foreign_keys=0")
        connection.execute("BEGIN")
        style = STYLES[seed % len(STYLES)]
        emptied_table = rng.choice(list(base.columns)) if style == "empty" and base.columns else None
        for name, columns in base.columns.items():
            filled = "empty" if name == emptied_table else style
            _fill_table(connection, name, columns, base.rows[name], filled, literals, rng)
        _delete_broken_references(connection)
        for statement in base.triggers:
            connection.execute(statement)
        connection.execute("COMMIT")
        return connection.serialize()


def _columns(connection: sqlite3.Connection, table: str, rows: list[tuple[Any, ...]]) -> list[Column]:
    references = {}
    for name, parent, target in connection.execute(REFERENCES, (table,)).fetchall():
        key = [row[0] for row in connection.execute(COLUMNS, (parent,)) if row[3]]
        if target or len(key) == 1:
            references[name.lower()] = (parent, target or key[0])
    found = []
    for index, row in enumerate(connection.execute(COLUMNS, (table,)).fetchall()):
        name, declared, required, key_position = row
        stored = [values[index] for values in rows if values[index] is not None]
        declared_numeric = any(part in declared.upper() for part in ("INT", "REAL", "NUM", "DEC", "FLO", "DOUB"))
        numeric = all(isinstance(value, int | float) for value in stored) if stored else declared_numeric
        found.append(
            Column(name, numeric, not (required or key_position), bool(key_position), references.get(name.lower()))
        )
    return found


def _parents_first(tables: dict[str, list[Column]]) -> list[str]:
    """Sort tables so that each comes after those it refers to. In a cycle, one table comes before its parents."""
    order: list[str] = []
    unsorted = sorted(tables)
    while unsorted:
        unsorted_names = {name.lower() for name in unsorted}
        ready = [name for name in unsorted if not _parents(tables[name]) - {name.lower()} & unsorted_names]
        order += ready or unsorted[:1]
        unsorted = [name for name in unsorted if name not in order]
    return order


def _parents(columns: list[Column]) -> set[str]:
    return {column.reference[0].lower() for column in columns if column.reference}


def _fill_table(
    connection: sqlite3.Connection,
    table: str,
    columns: list[Column],
    old_rows: list[tuple[Any, ...]],
    style: str,
    literals: Sequence[str | int | float],
    rng: random.Random,
) -> None:
    names = ", ".join(_quoted(column.name) for column in columns)
    pools = [
        _candidate_values(connection, column, [row[i] for row in old_rows], style, literals, rng)
        for i, column in enumerate(columns)
    ]
    count = {"empty": 0, "grown": 2 * len(old_rows) + 2}.get(style, max(3, len(old_rows) + rng.randint(-1, 2)))
    rows: list[tuple[Any, ...]] = []
    for index in range(min(count, ROW_LIMIT)):
        if style == "duplicates" and rows and rng.random() < 0.5:
            row = list(rng.choice(rows))
        else:
            row = [_random_value(column, pool, style, rng) for column, pool in zip(columns, pools, strict=True)]
        for column_index, column in enumerate(columns):
            if column.key and not column.reference:
                row[column_index] = _key_value(column, old_rows, column_index, index)
        rows.append(tuple(row))
    placeholders = ", ".join("?" * len(columns))
    # OR IGNORE leaves out rows that violate a UNIQUE, NOT NULL or CHECK constraint.
    connection.executemany(f"INSERT OR IGNORE INTO {_quoted(table)} ({names}) VALUES ({placeholders})", rows)


def _delete_broken_references(connection: sqlite3.Connection) -> None:
    """Delete rows whose foreign key refers to no row, until none is left."""
    with contextlib.suppress(sqlite3.OperationalError):  # SQLite cannot check a reference to a column that is not a key
        while broken := [row for row in connection.execute("PRAGMA foreign_key_check") if row[1] is not None]:
            for table, row, *_ in broken:
                connection.execute(f"DELETE FROM {_quoted(table)} WHERE rowid = ?", (row,))


def _candidate_values(
    connection: sqlite3.Connection,
    column: Column,
    old_values: list[Any],
    style: str,
    literals: Sequence[str | int | float],
    rng: random.Random,
) -> list[Any]:
    """Return the values that a column of the variant can have."""
    if column.reference:
        parent, target = map(_quoted, column.reference)
        with contextlib.suppress(sqlite3.Error):
            return [row[0] for row in connection.execute(f"SELECT {target} FROM {parent} WHERE {target} IS NOT NULL")]
    pool = [value for value in old_values if value is not None]
    if column.numeric:
        numbers = [value for value in literals if not isinstance(value, str)]
        neighbours = [near for value in numbers for near in (value - 1, value, value + 1)]
        high = max(pool, default=1)
        pool = [*pool, *(value + rng.choice((-1, 1)) for value in pool), *neighbours, 0, high + 1, 2 * high + 3]
        pool = [value for value in pool if abs(value) < 2**63]
    else:
        pool = [*pool, *(value for value in literals if isinstance(value, str)), "other"]
    return rng.sample(pool, min(2, len(pool))) if style == "ties" else pool


def _random_value(column: Column, pool: list[Any], style: str, rng: random.Random) -> Any:
    if not pool or (style == "nulls" and column.nullable and rng.random() < NULL_FRACTION):
        return None
    return rng.choice(pool)


def _key_value(column: Column, old_rows: list[tuple[Any, ...]], column_index: int, index: int) -> Any:
    """Return the value of a key column in row `index`: the old value if the old table had this row, else a new one."""
    if index < len(old_rows):
        return old_rows[index][column_index]
    if column.numeric:
        return (
            max((row[column_index] for row in old_rows if row[column_index] is not None), default=0)
            + 1
            + index
            - len(old_rows)
        )
    return f"key {index}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
