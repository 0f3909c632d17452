"""Run untrusted queries in DuckDB, for problems with `engine: duckdb`; needs the extra `sql`.

Databases built from scripts stay open, with the configuration locked and without access to files and extensions. Each
query runs in a read-only transaction that is rolled back, and is interrupted at its deadline. DuckDB has no authorizer,
so functions that read anything other than the data are rejected by name. DuckDB does not apply its memory limit to all
allocations; beyond it, the limits of the worker pool and the kill of the worker process apply.
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

from rewards.sql.costs import SHORT_LITERAL, check_literals
from rewards.sql.execution import ROW_LIMIT, Database, Result, Row, TimeBudget, take_rows
from rewards.sql.text import QueryFailed, significant, tokens

DATABASES_LIMIT = 8
"""Largest number of databases that stay open. Building a small one takes about 50 ms."""
CONFIGURATION: dict[str, Any] = {
    "threads": 1,
    "memory_limit": "512MB",
    "temp_directory": "",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
}
LOCK_COMMANDS = (
    "SET enable_external_access=false",
    "SET python_enable_replacements=false",  # otherwise a table name can refer to a Python variable
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
    **dict.fromkeys(("trim", "ltrim", "rtrim"), (1, SHORT_LITERAL)),
}
_databases: OrderedDict[str, Any] = OrderedDict()
_lock = threading.Lock()


def run(
    database: Database,
    query: str,
    budget: TimeBudget,
    *,
    row_limit: int = ROW_LIMIT,
    column_count: int | None = None,
    trusted: bool = False,
    reverse_unordered: bool = False,
) -> Result:
    """Run one read-only query; arguments and errors are those of `sqlite_engine.run`.

    `reverse_unordered` has no effect: DuckDB has no such setting.
    """
    duckdb = _import_duckdb()
    with contextlib.closing(_database(duckdb, database, budget).cursor()) as connection:
        timer = threading.Timer(max(budget.seconds_left(), 0.0), connection.interrupt)
        try:
            if not trusted:
                _check_query(query)
            [statement] = duckdb.extract_statements(query)
            if statement.type != duckdb.StatementType.SELECT:
                raise QueryFailed("rejected", "the statement is not SELECT, WITH or VALUES")
            timer.start()
            reads = frozenset((name.lower(), "") for name in connection.get_table_names(query))
            connection.execute("BEGIN TRANSACTION READ ONLY")
            connection.execute(query)
            columns = tuple(str(column[0]) for column in connection.description)
            taken = take_rows(_rows(connection), row_limit) if column_count in (None, len(columns)) else []
            return Result(columns, taken, reads)
        except (duckdb.Error, MemoryError, ValueError, OverflowError, RuntimeError) as error:
            raise _query_failure(duckdb, error) from None
        finally:
            timer.cancel()
            with contextlib.suppress(duckdb.Error):
                connection.execute("ROLLBACK")


def _import_duckdb() -> Any:
    if importlib.util.find_spec("duckdb") is None:
        raise QueryFailed("crash", "engine duckdb needs the package duckdb: install the extra `sql`")
    return importlib.import_module("duckdb")


def _database(duckdb: Any, database: Database, budget: TimeBudget) -> Any:
    """Return the open, locked database of a script. Raises QueryFailed (crash) if the script fails."""
    assert database.script is not None, "a DuckDB database is built from a script"
    with _lock:
        found = _databases.pop(database.script, None)
        if found is None:
            found = duckdb.connect(":memory:", config=CONFIGURATION)
            timer = threading.Timer(max(budget.seconds_left(), 0.0), found.interrupt)
            timer.start()
            try:
                found.execute(database.script or "SELECT 1")
                for lock in LOCK_COMMANDS:
                    found.execute(lock)
            except (duckdb.Error, MemoryError, ValueError, RuntimeError) as error:
                found.close()
                raise QueryFailed("crash", f"the database cannot be built: {error}") from None
            finally:
                timer.cancel()
        _databases[database.script] = found
        while len(_databases) > DATABASES_LIMIT:
            _databases.popitem(last=False)[1].close()
    return found


def _check_query(query: str) -> None:
    """Raise QueryFailed (rejected) for denied names, and for notation that `text.tokens` reads unlike DuckDB."""
    before = ""
    for token in tokens(query, "duckdb"):
        nested = token.kind == "comment" and "/*" in token.text[2:]
        escaped = token.kind == "string" and before.upper() in ("E", "U&")
        if nested or escaped or token.text == "$":
            raise QueryFailed("rejected", "nested comments, escape strings and dollar signs are not allowed")
        before = token.text
    found = list(significant(query, "duckdb"))
    for token, following in zip(found, [*found[1:], None], strict=True):
        called = following is not None and following.text == "("
        if (called and token.function_name in DENIED_FUNCTIONS) or token.function_name.startswith(DENIED_PREFIXES):
            raise QueryFailed("rejected", f"{token.function_name} is not allowed")
    check_literals(query, "duckdb", LITERAL_ARGUMENTS)


def _rows(connection: Any) -> Iterator[Row]:
    while (row := connection.fetchone()) is not None:
        yield tuple(map(_python_value, row))


def _python_value(cell: Any) -> Any:
    """Convert a cell to a value that compares as in `rewards/sql/results.py`.

    Decimals become int or float, a date or datetime its ISO 8601 text (a date at midnight), lists and structs tuples,
    and other types text. A converted value other than a number is a tuple that begins with the name of its type.
    """
    if cell is None or isinstance(cell, bool | int | float | str | bytes):
        return cell
    if isinstance(cell, Decimal):
        return int(cell) if cell == cell.to_integral_value() else float(cell)
    if isinstance(cell, datetime.date):
        moment = cell if isinstance(cell, datetime.datetime) else datetime.datetime.combine(cell, datetime.time())
        return "time", moment.isoformat()
    if isinstance(cell, list | tuple):
        return "list", *map(_python_value, cell)
    if isinstance(cell, dict):
        return "struct", *((str(name), _python_value(value)) for name, value in cell.items())
    return type(cell).__name__, str(cell)


def _query_failure(duckdb: Any, error: Exception) -> QueryFailed:
    """Return the verdict status and reason for an exception of DuckDB or Python."""
    if isinstance(error, duckdb.InterruptException):
        return QueryFailed("timeout", "the query takes too long")
    if isinstance(error, duckdb.OutOfMemoryException | MemoryError):
        return QueryFailed("memory", "the query needs too much memory")
    not_allowed = (duckdb.PermissionException, duckdb.TransactionException, duckdb.InvalidInputException)
    if isinstance(error, not_allowed) or not isinstance(error, duckdb.Error):
        return QueryFailed("rejected", f"the query is not allowed: {error}")
    return QueryFailed("wrong", f"the query fails: {error}")
