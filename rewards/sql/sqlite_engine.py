"""Run untrusted queries in SQLite, with a private database, an authorizer that allows only reads, and limits.

Each query has a connection of its own. A database built from a script is serialised once, and each connection
deserialises a copy into its own memory; a database file is opened as immutable. SQLite interrupts a query at its
deadline, but not during a single long step in C. `rewards/sql/costs.py` rejects the known steps of this kind; for any
other, the worker pool kills the worker process.
"""

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rewards.sql.costs import LITERAL_ARGUMENTS, check_literals, check_slow_calls
from rewards.sql.execution import CACHE_LIMIT, ROW_LIMIT, Cache, Database, Result, TimeBudget, take_rows
from rewards.sql.text import QueryFailed

HEAP_LIMIT = 256 * 2**20
"""Largest number of bytes of SQLite's heap in the whole process. SQLite has no memory limit per connection."""
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 100_000,  # bytes of a value or row; instr is quadratic in it, 0.1 s at this size
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,  # bytes; `text.STATEMENT_LIMIT` bounds the characters
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 100,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 250_000,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
STEPS_PER_CHECK = 100
"""Operations of SQLite's virtual machine between two checks of the time budget. SQLite checks only at jumps."""
DENIED_FUNCTIONS = {
    *("random", "randomblob", "zeroblob", "load_extension", "fts3_tokenizer", "fts5", "fts5_source_id", "changes"),
    *("total_changes", "last_insert_rowid", "sqlite_offset", "readfile", "writefile", "edit", "sqlite_log"),
    *("sqlite_compileoption_get", "sqlite_compileoption_used", "sqlite_source_id", "sqlite_version"),
}
HIDDEN_TABLES = ("sqlite_", "pragma_")
"""Prefixes of tables that a query may not read."""
TABLE_FUNCTIONS = {"json_each", "json_tree"}
"""Virtual tables of SQLite itself. They are loaded before the authorizer is set, since it denies loading one."""

_images = Cache(CACHE_LIMIT)


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
    """Run one read-only query on a private copy of a database.

    Args:
        budget: the query is interrupted when it is used up.
        row_limit: return at most one row more than this.
        column_count: if the result has another number of columns, return no rows.
        trusted: skip the checks of expensive calls, for gold queries.
        reverse_unordered: read rows without an ORDER BY in reverse order.
    Raises: QueryFailed.
    """
    try:
        if not trusted:
            check_literals(query, "sqlite", LITERAL_ARGUMENTS)
            check_slow_calls(query)
        with contextlib.closing(connect(database, budget)) as connection:
            reads = _restrict(connection, budget, reverse_unordered)
            cursor = connection.execute(query)
            if cursor.description is None:
                raise QueryFailed("rejected", "the statement returns no result")
            columns = tuple(column[0] for column in cursor.description)
            taken = take_rows(cursor, row_limit) if column_count in (None, len(columns)) else []
            return Result(columns, taken, frozenset(reads))
    except (sqlite3.Error, sqlite3.Warning, MemoryError, ValueError, OverflowError) as error:
        raise _query_failure(error) from None


def _database_image(database: Database, budget: TimeBudget) -> bytes:
    """Return the serialised database that a script builds, or b"" if it has no table. Raises QueryFailed (crash)."""
    assert database.script is not None, "a database file has no script"
    found = _images.get(database.key)
    if found is None:
        try:
            with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
                connection.set_progress_handler(budget.expired, STEPS_PER_CHECK)
                connection.executescript(database.script)
                if connection.in_transaction:
                    connection.commit()
                found = connection.serialize() if _table_count(connection) else b""
        except (sqlite3.Error, sqlite3.Warning, MemoryError, ValueError) as error:
            raise QueryFailed("crash", f"the database cannot be built: {error}") from None
        _images.put(database.key, found, len(found))
    return bytes(found)


def _table_count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def connect(database: Database, budget: TimeBudget) -> sqlite3.Connection:
    """Open a file as immutable, or a private copy of a database made by a script or of bytes. Raises QueryFailed."""
    if database.script is None and not database.image:
        if not Path(database.path).is_file():
            raise QueryFailed("crash", "the database file does not exist")
        name = f"file:{quote(str(Path(database.path).resolve()))}?mode=ro&immutable=1"
        return sqlite3.connect(name, uri=True, isolation_level=None, cached_statements=0)
    content = database.image or _database_image(database, budget)
    connection = sqlite3.connect(":memory:", isolation_level=None, cached_statements=0)
    if content:
        connection.deserialize(content)
    return connection


def _restrict(connection: sqlite3.Connection, budget: TimeBudget, reverse_unordered: bool) -> set[tuple[str, str]]:
    """Allow only reads on a connection and set its limits.

    Returns: a set to which SQLite adds (table, column) for each column that the query reads.
    """
    connection.execute("PRAGMA trusted_schema=0")
    connection.execute("PRAGMA temp_store=2")
    connection.execute(f"PRAGMA hard_heap_limit={HEAP_LIMIT}")
    if reverse_unordered:
        connection.execute("PRAGMA reverse_unordered_selects=1")
    connection.execute("PRAGMA query_only=1")
    connection.execute("SELECT 1 FROM json_each('[]'), json_tree('[]')")
    for category, limit in LIMITS.items():
        connection.setlimit(category, limit)
    connection.text_factory = _decode
    connection.set_progress_handler(budget.expired, STEPS_PER_CHECK)
    reads: set[tuple[str, str]] = set()
    connection.set_authorizer(_authorizer(reads))
    return reads


def _decode(data: bytes) -> str:
    """Decode a text cell. Invalid UTF-8 becomes surrogates instead of an error."""
    return data.decode("utf-8", "surrogateescape")


def _authorizer(reads: set[tuple[str, str]]) -> Callable[..., int]:
    """Return an authorizer that allows SELECT, recursion, reads of the schema's tables and functions not in
    DENIED_FUNCTIONS, and denies every other action. It adds each column that is read to `reads`.
    """

    def decide(action: int, first: str | None, second: str | None, *_: Any) -> int:
        if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE):
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION and second is not None:
            return sqlite3.SQLITE_DENY if second.lower() in DENIED_FUNCTIONS else sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_READ and first is not None and not first.lower().startswith(HIDDEN_TABLES):
            if first.lower() not in TABLE_FUNCTIONS:
                reads.add((first.lower(), (second or "").lower()))
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    return decide


def _query_failure(error: Exception) -> QueryFailed:
    """Return the verdict status and reason for an exception of SQLite or of Python's sqlite3 module."""
    if isinstance(error, MemoryError):
        return QueryFailed("memory", f"the query needs more than {HEAP_LIMIT} bytes of memory")
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_INTERRUPT:
        return QueryFailed("timeout", "the query takes too long")
    if code == sqlite3.SQLITE_TOOBIG:
        return QueryFailed("output_limit", "a value or the statement is above SQLite's length limit")
    if code in (sqlite3.SQLITE_AUTH, sqlite3.SQLITE_READONLY) or not isinstance(error, sqlite3.Error) or code is None:
        return QueryFailed("rejected", f"the query is not allowed: {error}")
    return QueryFailed("wrong", f"the query fails: {error}")
