"""Problems for queries: the fields of a row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rewards.sql.execution import Database
from rewards.sql.text import statements

SECONDS = 2.0
"""Processor seconds of the answer on one database where the gold is fast. Maximum of `timeout_s`."""
GOLD_SECONDS = 60.0
"""Processor seconds of the gold on one database: to build it, and to run the gold in both orders of reading rows."""
GOLD_SECONDS_LIMIT = 1_000.0
GOLD_ROWS = 200_000
"""Largest number of rows of the gold's result."""


@dataclass(frozen=True)
class SqlProblem:
    """The validated fields of a problem, which `rewards/sql/query.py` lists."""

    databases: tuple[Database, ...]
    gold: str
    engine: str
    any_columns: bool
    partial_credit: bool
    seconds: float
    gold_seconds: float
    gold_rows: int


def parse_problem(problem: Mapping[str, Any]) -> SqlProblem:
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
    gold_seconds, gold_rows = problem.get("gold_seconds", GOLD_SECONDS), problem.get("gold_rows", GOLD_ROWS)
    if not (isinstance(gold_seconds, int | float) and 0 < gold_seconds <= GOLD_SECONDS_LIMIT):
        raise ValueError(f"gold_seconds: must be a number in (0, {GOLD_SECONDS_LIMIT:g}], got {gold_seconds!r:.100}")
    if not (isinstance(gold_rows, int) and gold_rows > 0):
        raise ValueError(f"gold_rows: must be a whole number above 0, got {gold_rows!r:.100}")
    found = statements(gold, engine)
    if len(found) != 1:
        raise ValueError(f"gold_sql: must be one statement, got {len(found)}")
    sources = [source for source in (script, path, *extra) if isinstance(source, str)]
    databases = tuple(Database(engine, s) if path is None else Database(engine, None, s) for s in sources)
    partial = bool(problem.get("partial_credit"))
    seconds = min(seconds, SECONDS)
    return SqlProblem(databases, found[0], engine, columns == "any", partial, seconds, gold_seconds, gold_rows)
