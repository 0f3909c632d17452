"""Formats whose answers are SQL queries: rows with a schema script, and rows that name a SQLite database."""

import sqlite3
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any

from tasks.dataset.rows import GOLD_LIMITS, Malformed, Row, RowOptions, text_of

OPTIONAL = ("extra_dbs", "columns", "engine", "partial_credit")
"""Fields of a row that are passed to the verifier unchanged."""


def _gold_limits(options: RowOptions) -> dict[str, Any]:
    """Return the limits of the gold query that the options change."""
    given = {name: getattr(options, name) for name in GOLD_LIMITS}
    return {name: value for name, value in given.items() if value != getattr(RowOptions, name)}


def read_sql(row: dict[str, Any], options: RowOptions) -> Row:
    """Read a row with question, schema script and gold query."""
    question, schema, gold = text_of(row, "question"), text_of(row, "schema_sql"), text_of(row, "gold_sql")
    extra = row.get("extra_dbs")
    if extra is not None and not (isinstance(extra, list) and all(isinstance(script, str) for script in extra)):
        raise Malformed(f"field 'extra_dbs' must be a list of schema scripts, got {extra!r:.100}")
    optional = {name: row[name] for name in OPTIONAL if row.get(name) is not None}
    return Row(
        key=f"{schema}\n{question}",
        shown={"schema": schema.strip(), "question": question},
        problem={"schema_sql": schema, "gold_sql": gold} | optional | _gold_limits(options),
        solution=_fenced(gold),
    )


def read_spider(row: dict[str, Any], options: RowOptions) -> Row:
    """Read a row of Spider. The columns of a result may be in any order."""
    return _read_with_database(row, options, gold=("query",), columns="any", evidence="")


def read_bird(row: dict[str, Any], options: RowOptions) -> Row:
    """Read a row of BIRD. The columns of a result must be in the order of the gold query."""
    evidence = row.get("evidence") or ""
    if not isinstance(evidence, str):
        raise Malformed(f"field 'evidence' must be a string, got {evidence!r:.100}")
    return _read_with_database(row, options, gold=("SQL", "query"), columns="strict", evidence=evidence.strip())


def _read_with_database(
    row: dict[str, Any], options: RowOptions, gold: tuple[str, ...], columns: str, evidence: str
) -> Row:
    """Read a row whose gold query is in the first of the columns `gold` that it has."""
    question, query, name = text_of(row, "question"), text_of(row, *gold), text_of(row, "db_id")
    if Path(name).name != name:
        raise Malformed(f"field 'db_id' must be the name of a folder, got {name!r:.100}")
    folder = Path(options.database_dir).resolve() / name
    database, *others = _databases(folder, name)
    problem = {"database": database, "gold_sql": query, "columns": columns} | _gold_limits(options)
    return Row(
        key=f"{name}\n{question}",
        shown={
            "schema": _schema(database),
            "question": question,
            "evidence": evidence,
            "hint": f"\nHint: {evidence}" if evidence else "",
        },
        problem=problem | ({"extra_dbs": others} if others else {}),
        solution=_fenced(query),
        columns={
            "gold_sql": next(column for column in gold if row.get(column) is not None),
            "database": "db_id",
            "extra_dbs": "db_id",
        },
    )


@lru_cache(maxsize=1024)
def _databases(folder: Path, name: str) -> tuple[str, ...]:
    """Return the paths of the database and of the other databases in its folder, which have the same schema."""
    first = folder / f"{name}.sqlite"
    if not first.is_file():
        raise Malformed(f"field 'db_id' must name a database, got {name!r}, but there is no {first}")
    return str(first), *sorted(str(file) for file in folder.glob("*.sqlite") if file != first)


@lru_cache(maxsize=1024)
def _schema(database: str) -> str:
    """Return the statements that created the tables and views, in their order."""
    wanted = "SELECT sql FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    try:
        with closing(sqlite3.connect(f"{Path(database).as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            statements = [str(sql).strip() for (sql,) in connection.execute(f"{wanted} ORDER BY rowid") if sql]
    except sqlite3.Error as error:
        raise Malformed(f"field 'db_id' must name a readable database, got {database} ({error})") from None
    if not statements:
        raise Malformed(f"field 'db_id' must name a database with tables, got {database}")
    return "\n\n".join(f"{statement};" for statement in statements)


def _fenced(query: str) -> str:
    return f"```sql\n{query.strip()}\n```"
