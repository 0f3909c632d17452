"""Make variants of a database: the same schema with other rows.

An answer that is right by accident on one database is likely to be wrong on a variant. A variant is a pure function of
the database, the seed and the literals. Its rows satisfy the schema: keys are unique, references point to existing
rows, and NOT NULL and CHECK constraints hold. They also look like the stored ones, as right answers may rely on this:
NULLs, zeros and equal values are only in columns in which the stored rows have them, apart from the styles about these.
"""

import contextlib
import hashlib
import random
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rewards.sql.columns import Column, candidate_values, random_values
from rewards.sql.execution import row_size

STYLES = ("shuffled", "grown", "duplicates", "ties", "nulls", "empty")
"""The style of a variant is STYLES[seed % 6]. All styles draw values at random: `shuffled` from the different ones, the
others as often as they are stored. In addition, `grown` has twice the rows, `duplicates` repeats rows, `ties` has at
most two distinct values in a column, `nulls` has many NULLs in columns that have some, and `empty` has one table
without rows."""
ROW_LIMIT = 200
"""Largest number of rows of one table in a variant, and of a table from which values are drawn."""
SECONDS_LIMIT = 1.0
"""Largest wall seconds for making one variant."""
COLUMNS = 'SELECT name, type, "notnull", pk FROM pragma_table_xinfo(?) WHERE hidden = 0'
REFERENCES = 'SELECT "from", "table", "to" FROM pragma_foreign_key_list(?) ORDER BY id, seq'
TABLES = (
    "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND substr(name, 1, 7) <> 'sqlite_'"
)
SCHEMA = "SELECT type, sql FROM sqlite_master WHERE sql IS NOT NULL AND substr(name, 1, 7) <> 'sqlite_' ORDER BY rowid"


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
        columns = {
            name: [_with_reference(name, i, columns, rows) for i in range(len(columns[name]))] for name in columns
        }
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
        for name in base.columns:
            filled = "empty" if name == emptied_table else style
            _fill_table(connection, name, base, filled, literals, rng)
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
        nullable = len(stored) < len(rows) if rows else not (required or key_position)
        distinct = 1 < len(stored) == len(set(stored))
        found.append(Column(name, numeric, nullable, distinct, bool(key_position), references.get(name.lower())))
    return found


def _with_reference(
    table: str, index: int, columns: dict[str, list[Column]], rows: dict[str, list[tuple[Any, ...]]]
) -> Column:
    """Return a column, as a reference if the schema declares none but its name and stored values are those of one.

    Its name is that of the key of another table, or this after the name of the table: `code` or `site_id` for the key
    `code` or `id` of the table `site` or `sites`.
    """
    column = columns[table][index]
    values = {row[index] for row in rows[table]} - {None}
    if column.reference or (column.key and sum(other.key for other in columns[table]) == 1) or not values:
        return column
    for parent, others in columns.items():
        keys = [i for i, other in enumerate(others) if other.key]
        if len(keys) != 1 or parent == table:
            continue
        key = others[keys[0]].name.lower()
        # Columns named id or name in two tables are seldom a reference.
        names = {f"{parent.lower()}_{key}", f"{parent.lower().removesuffix('s')}_{key}"} | ({key} - {"id", "name"})
        if column.name.lower() in names and values <= {row[keys[0]] for row in rows[parent]}:
            return replace(column, reference=(parent, others[keys[0]].name))
    return column


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
    base: Base,
    style: str,
    literals: Sequence[str | int | float],
    rng: random.Random,
) -> None:
    columns, old_rows = base.columns[table], base.rows[table]
    names = ", ".join(_quoted(column.name) for column in columns)
    count = {"empty": 0, "grown": 2 * len(old_rows) + 2}.get(style, max(3, len(old_rows) + rng.randint(-1, 2)))
    count = min(count, ROW_LIMIT)
    cells: list[list[Any]] = []
    for i, column in enumerate(columns):
        if column.key and not column.reference:
            cells.append([_key_value(column, old_rows, i, index) for index in range(count)])
            continue
        referred = _referred_values(connection, column, base) if column.reference else None
        pool = candidate_values(column, [row[i] for row in old_rows], literals, rng) if referred is None else referred
        cells.append(random_values(column, pool, count, style, rng))
    for i, column in enumerate(columns):
        if column.reference and column.reference[0].lower() == table.lower():
            _refer_to_earlier_rows(cells, i, columns, rng)
    rows: list[tuple[Any, ...]] = list(zip(*cells, strict=True))
    if style == "duplicates":
        for index in range(1, count):
            if rng.random() < 0.5:
                copied, own = rng.choice(rows[:index]), rows[index]
                is_key = [column.key and not column.reference for column in columns]
                rows[index] = tuple(o if key else c for o, c, key in zip(own, copied, is_key, strict=True))
    elif style != "ties" and _references_are_distinct(columns, old_rows):
        rows = list({_references(columns, row): row for row in rows}.values())
    placeholders = ", ".join("?" * len(columns))
    # OR IGNORE leaves out rows that violate a UNIQUE, NOT NULL or CHECK constraint.
    connection.executemany(f"INSERT OR IGNORE INTO {_quoted(table)} ({names}) VALUES ({placeholders})", rows)


def _refer_to_earlier_rows(cells: list[list[Any]], index: int, columns: list[Column], rng: random.Random) -> None:
    """Make a column that refers to the key of its own table refer to earlier rows, so that there is no cycle.

    Args:
        cells: by column and row.
        index: that of the column. Without NULL in the stored rows, a row may refer to itself.
    """
    column = columns[index]
    assert column.reference is not None
    keys = [i for i, other in enumerate(columns) if other.key and other.name.lower() == column.reference[1].lower()]
    if keys:
        known = [cells[keys[0]][: row + (not column.nullable)] for row in range(len(cells[index]))]
        pairs = zip(cells[index], known, strict=True)
        cells[index] = [rng.choice(earlier) if earlier and cell is not None else None for cell, earlier in pairs]


def _references_are_distinct(columns: list[Column], rows: list[tuple[Any, ...]]) -> bool:
    """Return whether a table links others, and no two of its rows link the same: a key that may not be declared."""
    linked = [_references(columns, row) for row in rows]
    return sum(column.reference is not None for column in columns) > 1 and len(set(linked)) == len(linked)


def _references(columns: list[Column], row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(cell for column, cell in zip(columns, row, strict=True) if column.reference)


def _delete_broken_references(connection: sqlite3.Connection) -> None:
    """Delete rows whose foreign key refers to no row, until none is left."""
    with contextlib.suppress(sqlite3.OperationalError):  # SQLite cannot check a reference to a column that is not a key
        while broken := [row for row in connection.execute("PRAGMA foreign_key_check") if row[1] is not None]:
            for table, row, *_ in broken:
                connection.execute(f"DELETE FROM {_quoted(table)} WHERE rowid = ?", (row,))


def _referred_values(connection: sqlite3.Connection, column: Column, base: Base) -> list[Any] | None:
    """Return the values that a foreign key can have; None if its target cannot be read.

    A table that is filled later, or is being filled, has its stored values. References that these break are deleted.
    """
    assert column.reference is not None
    parent, target = column.reference
    with contextlib.suppress(sqlite3.Error):
        query = f"SELECT {_quoted(target)} FROM {_quoted(parent)} WHERE {_quoted(target)} IS NOT NULL"
        if found := [row[0] for row in connection.execute(query)]:
            return found
        for name, columns in base.columns.items():
            names = [known.name.lower() for known in columns]
            if name.lower() == parent.lower() and target.lower() in names:
                values = [row[names.index(target.lower())] for row in base.rows[name]]
                return [value for value in values if value is not None]
        return []
    return None


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
