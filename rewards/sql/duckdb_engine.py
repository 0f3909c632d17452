"""DuckDB for queries found in answers, for problems written in its dialect; needs the extra `sql`.

A database made from a script is kept, its configuration locked and its files and extensions shut off; every query runs
in a read-only transaction that is rolled back, and is interrupted at its deadline. DuckDB has no authorizer, so
functions that reach around the data are denied by name, and its memory limit does not hold everywhere: the pool's
limits and its kill are the last line.
"""

import contextlib
import datetime
import importlib
import importlib.util
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from rewards.sql.costs import SHORT, check_literals
from rewards.sql.engines import ROW_LIMIT, Clock, Database, Result, Row, take
from rewards.sql.text import QueryFailed, significant, tokens

KEPT = 8
"""Databases that stay open; building a small one takes some 50 ms."""
CONFIGURATION: dict[str, Any] = {
    "threads": 1,
    "memory_limit": "512MB",
    "temp_directory": "",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
}
LOCKS = (
    "SET enable_external_access=false",
    "SET python_enable_replacements=false",  # else a table name may be a Python variable
    "SET lock_configuration=true",
)
DENIED_FUNCTIONS = {
    *("random", "setseed", "uuid", "uuidv4", "uuidv7", "gen_random_uuid", "query", "query_table", "current_setting"),
    *("getvariable", "nextval", "currval", "txid_current", "glob", "sniff_csv", "current_query", "test_all_types"),
    *("pg_typeof", "sql_auto_complete", "repeat_row", "summary", "checkpoint", "force_checkpoint", "seq_scan"),
}
DENIED_PREFIXES = ("duckdb_", "pragma_", "sqlite_", "read_", "parquet_", "pg_", "information_schema", "icu_")
SMALL_NUMBER = re.compile(r"[0-9]{1,3}")
FORMAT = re.compile(r"'(?![^\n]*[0-9]{4})(?:[^*{']|\{(?!:\{))*'")
LITERAL_ARGUMENTS = {
    **dict.fromkeys(("repeat", "lpad", "rpad", "list_resize", "array_resize", "bar"), (1, SMALL_NUMBER)),
    **dict.fromkeys(("printf", "format"), (0, FORMAT)),
    **dict.fromkeys(("trim", "ltrim", "rtrim"), (1, SHORT)),
}
_databases: OrderedDict[str, Any] = OrderedDict()
_lock = threading.Lock()


def run(
    database: Database,
    query: str,
    clock: Clock,
    *,
    rows: int = ROW_LIMIT,
    width: int | None = None,
    trusted: bool = False,
    reverse: bool = False,
) -> Result:
    """Run one read-only query, as `sql_engines.run` does; `reverse` has no effect here."""
    duckdb = _module()
    with contextlib.closing(_database(duckdb, database, clock).cursor()) as connection:
        timer = threading.Timer(max(clock.left(), 0.0), connection.interrupt)
        try:
            if not trusted:
                _check(query)
            [statement] = duckdb.extract_statements(query)
            if statement.type != duckdb.StatementType.SELECT:
                raise QueryFailed("rejected", "the statement is no SELECT, WITH or VALUES")
            timer.start()
            reads = frozenset((name.lower(), "") for name in connection.get_table_names(query))
            connection.execute("BEGIN TRANSACTION READ ONLY")
            connection.execute(query)
            columns = tuple(str(column[0]) for column in connection.description)
            taken = take(_rows(connection), rows) if width in (None, len(columns)) else []
            return Result(columns, taken, reads)
        except (duckdb.Error, MemoryError, ValueError, OverflowError, RuntimeError) as error:
            raise _failure(duckdb, error) from None
        finally:
            timer.cancel()
            with contextlib.suppress(duckdb.Error):
                connection.execute("ROLLBACK")


def _module() -> Any:
    if importlib.util.find_spec("duckdb") is None:
        raise QueryFailed("crash", "engine 'duckdb' needs the package duckdb (the extra `sql`)")
    return importlib.import_module("duckdb")


def _database(duckdb: Any, database: Database, clock: Clock) -> Any:
    """The locked database of a script. Raises QueryFailed."""
    assert database.script is not None, "DuckDB databases are made from scripts"
    with _lock:
        found = _databases.pop(database.script, None)
        if found is None:
            found = duckdb.connect(":memory:", config=CONFIGURATION)
            timer = threading.Timer(max(clock.left(), 0.0), found.interrupt)
            timer.start()
            try:
                found.execute(database.script or "SELECT 1")
                for lock in LOCKS:
                    found.execute(lock)
            except (duckdb.Error, MemoryError, ValueError, RuntimeError) as error:
                found.close()
                raise QueryFailed("crash", f"the database cannot be built: {error}") from None
            finally:
                timer.cancel()
        _databases[database.script] = found
        while len(_databases) > KEPT:
            _databases.popitem(last=False)[1].close()
    return found


def _check(query: str) -> None:
    """Raise QueryFailed for what the token scanner would read otherwise than DuckDB, and for denied names."""
    before = ""
    for token in tokens(query, "duckdb"):
        nested = token.kind == "comment" and "/*" in token.text[2:]
        escaped = token.kind == "string" and before.upper() in ("E", "U&")
        if nested or escaped or token.text == "$":
            raise QueryFailed("rejected", "nested comments, escape strings and dollar signs are refused")
        before = token.text
    found = list(significant(query, "duckdb"))
    for token, following in zip(found, [*found[1:], None], strict=True):
        called = following is not None and following.text == "("
        if (called and token.called in DENIED_FUNCTIONS) or token.called.startswith(DENIED_PREFIXES):
            raise QueryFailed("rejected", f"{token.called} is refused")
    check_literals(query, "duckdb", LITERAL_ARGUMENTS)


def _rows(connection: Any) -> Iterator[Row]:
    while (row := connection.fetchone()) is not None:
        yield tuple(map(_plain, row))


def _plain(cell: Any) -> Any:
    """Numbers as int and float, dates as midnight, lists and structs as tuples, what is left as text."""
    if cell is None or isinstance(cell, bool | int | float | str | bytes):
        return cell
    if isinstance(cell, Decimal):
        return int(cell) if cell == cell.to_integral_value() else float(cell)
    if isinstance(cell, datetime.date):
        moment = cell if isinstance(cell, datetime.datetime) else datetime.datetime.combine(cell, datetime.time())
        return "time", moment.isoformat()
    if isinstance(cell, list | tuple):
        return "list", *map(_plain, cell)
    if isinstance(cell, dict):
        return "struct", *((str(name), _plain(value)) for name, value in cell.items())
    return type(cell).__name__, str(cell)


def _failure(duckdb: Any, error: Exception) -> QueryFailed:
    if isinstance(error, duckdb.InterruptException):
        return QueryFailed("timeout", "the query takes too long")
    if isinstance(error, duckdb.OutOfMemoryException | MemoryError):
        return QueryFailed("memory", "the query needs too much memory")
    refusals = (duckdb.PermissionException, duckdb.TransactionException, duckdb.InvalidInputException)
    if isinstance(error, refusals) or not isinstance(error, duckdb.Error):
        return QueryFailed("rejected", f"the query is refused: {error}")
    return QueryFailed("wrong", f"the query fails: {error}")
