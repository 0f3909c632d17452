"""SQLite for queries found in answers: private databases, an authorizer that lets only reads through, and limits.

A connection serves one query. A database made from a script is a cached image that every connection copies into its own
memory; a file is opened immutable. A query ends by itself at its deadline, except inside one long step in C; those that
are known are refused by `rewards/sql/costs.py`, the rest is left to the pool that kills workers.
"""

import contextlib
import functools
import hashlib
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rewards.sql.costs import LITERAL_ARGUMENTS, check_literals, check_slow_calls
from rewards.sql.text import QueryFailed

Row = tuple[Any, ...]

ROW_LIMIT = 50_000
BYTE_LIMIT = 20_000_000
"""Bytes of text and blobs of one result."""
HEAP_LIMIT = 256 * 2**20
"""Bytes of SQLite's heap, in the whole process: the only kind of memory limit SQLite has."""
CACHE_LIMIT = 128 * 2**20
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 100_000,  # bytes of a value or row; instr is quadratic in it, 0.1 s at this size
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,  # bytes; the statement is bounded in characters before
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 100,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 250_000,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
STEPS = 100
"""Operations of SQLite's virtual machine between two looks at the clock, which it takes at jumps only."""
DENIED_FUNCTIONS = {
    *("random", "randomblob", "zeroblob", "load_extension", "fts3_tokenizer", "fts5", "fts5_source_id", "changes"),
    *("total_changes", "last_insert_rowid", "sqlite_offset", "readfile", "writefile", "edit", "sqlite_log"),
    *("sqlite_compileoption_get", "sqlite_compileoption_used", "sqlite_source_id", "sqlite_version"),
}
HIDDEN_TABLES = ("sqlite_", "pragma_")
TABLE_FUNCTIONS = {"json_each", "json_tree"}
"""Virtual tables that are in every database: loaded before the authorizer, which lets no other one load."""


@dataclass(frozen=True)
class Database:
    """A script that builds a database, or the path of an SQLite file."""

    engine: str
    script: str | None
    path: str = ""

    @functools.cached_property
    def key(self) -> tuple[Any, ...]:
        """Changes when the content does."""
        if self.script is not None:
            return self.engine, hashlib.blake2b(self.script.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        with contextlib.suppress(OSError, ValueError):
            facts = Path(self.path).stat()
            return self.engine, self.path, facts.st_mtime_ns, facts.st_size
        return self.engine, self.path


@dataclass(frozen=True)
class Result:
    """What a query returned, and the columns (table, column) it read."""

    columns: tuple[str, ...]
    rows: list[Row]
    reads: frozenset[tuple[str, str]]

    @property
    def size(self) -> int:
        return sum(row_size(row) for row in self.rows)


@dataclass
class Clock:
    """A budget of seconds of this thread's processor time that also ends at a moment of time.monotonic()."""

    seconds: float
    until: float
    started_cpu: float = field(default_factory=time.thread_time)

    def expired(self) -> bool:
        return self.left() <= 0

    def left(self) -> float:
        return min(self.until - time.monotonic(), self.seconds - (time.thread_time() - self.started_cpu))


class Cache:
    """What was used last, up to a number of bytes; from any thread."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self._entries: OrderedDict[Any, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> Any:
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: Any, value: Any, size: int) -> None:
        with self._lock:
            self.total += size - self._entries.pop(key, (None, 0))[1]
            self._entries[key] = value, size
            while self.total > self.limit:
                self.total -= self._entries.popitem(last=False)[1][1]


IMAGES = Cache(CACHE_LIMIT)


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
    """Run one read-only query on a database of its own.

    Stops after `rows` + 1 rows, and without rows when the result is not `width` columns wide. A `trusted` query may
    call functions with any argument; `reverse` has SQLite read unordered rows backwards. Raises QueryFailed.
    """
    try:
        if not trusted:
            check_literals(query, "sqlite", LITERAL_ARGUMENTS)
            check_slow_calls(query)
        with contextlib.closing(_open(database, clock)) as connection:
            reads = _guard(connection, clock, reverse)
            cursor = connection.execute(query)
            if cursor.description is None:
                raise QueryFailed("rejected", "the statement returns no result")
            columns = tuple(column[0] for column in cursor.description)
            taken = take(cursor, rows) if width in (None, len(columns)) else []
            return Result(columns, taken, frozenset(reads))
    except (sqlite3.Error, sqlite3.Warning, MemoryError, ValueError, OverflowError) as error:
        raise _failure(error) from None


def take(rows: Iterator[Row], limit: int) -> list[Row]:
    """Rows up to one more than the limit. Raises QueryFailed above ROW_LIMIT and BYTE_LIMIT."""
    taken: list[Row] = []
    size = 0
    for row in rows:
        taken.append(row)
        size += row_size(row)
        if len(taken) > ROW_LIMIT or size > BYTE_LIMIT:
            raise QueryFailed("output_limit", f"the result is above {ROW_LIMIT} rows or {BYTE_LIMIT} bytes")
        if len(taken) > limit:
            break
    return taken


def row_size(row: Row) -> int:
    return sum(len(cell) if isinstance(cell, str | bytes) else 8 for cell in row)


def image(database: Database, clock: Clock) -> bytes:
    """The bytes of the database a script makes. Raises QueryFailed."""
    assert database.script is not None, "a file is no script"
    found = IMAGES.get(database.key)
    if found is None:
        try:
            with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
                connection.set_progress_handler(clock.expired, STEPS)
                connection.executescript(database.script)
                if connection.in_transaction:
                    connection.commit()
                found = connection.serialize() if _tables(connection) else b""
        except (sqlite3.Error, sqlite3.Warning, MemoryError, ValueError) as error:
            raise QueryFailed("crash", f"the database cannot be built: {error}") from None
        IMAGES.put(database.key, found, len(found))
    return bytes(found)


def _tables(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def dump(database: Database, limit: int, clock: Clock) -> str | None:
    """The script of a small database; None above `limit` bytes, or where Python cannot write one."""
    if database.script is not None:
        return database.script if len(database.script) <= limit else None
    key = (*database.key, "dump")
    found: str | None = IMAGES.get(key)
    if found is not None:
        return found
    with contextlib.suppress(sqlite3.Error, OSError, MemoryError, ValueError):
        if Path(database.path).stat().st_size <= limit:
            with contextlib.closing(_open(database, clock)) as connection:
                found = "\n".join(connection.iterdump())
                IMAGES.put(key, found, len(found))
    return found


def _open(database: Database, clock: Clock) -> sqlite3.Connection:
    if database.script is None:
        if not Path(database.path).is_file():
            raise QueryFailed("crash", "the database file does not exist")
        name = f"file:{quote(str(Path(database.path).resolve()))}?mode=ro&immutable=1"
        return sqlite3.connect(name, uri=True, isolation_level=None, cached_statements=0)
    content = image(database, clock)
    connection = sqlite3.connect(":memory:", isolation_level=None, cached_statements=0)
    if content:
        connection.deserialize(content)
    return connection


def _guard(connection: sqlite3.Connection, clock: Clock, reverse: bool) -> set[tuple[str, str]]:
    """Lock a connection; returns the set that will hold the columns its query reads."""
    connection.execute("PRAGMA trusted_schema=0")
    connection.execute("PRAGMA temp_store=2")
    connection.execute(f"PRAGMA hard_heap_limit={HEAP_LIMIT}")
    if reverse:
        connection.execute("PRAGMA reverse_unordered_selects=1")
    connection.execute("PRAGMA query_only=1")
    connection.execute("SELECT 1 FROM json_each('[]'), json_tree('[]')")
    for category, limit in LIMITS.items():
        connection.setlimit(category, limit)
    connection.text_factory = _text
    connection.set_progress_handler(clock.expired, STEPS)
    reads: set[tuple[str, str]] = set()
    connection.set_authorizer(_authorizer(reads))
    return reads


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _authorizer(reads: set[tuple[str, str]]) -> Callable[..., int]:
    """Lets a query select, read tables of the schema, recurse and call harmless functions; all else is denied."""

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


def _failure(error: Exception) -> QueryFailed:
    """The status that follows from what SQLite, or Python on its behalf, raised."""
    if isinstance(error, MemoryError):
        return QueryFailed("memory", f"the query needs more than {HEAP_LIMIT} bytes")
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_INTERRUPT:
        return QueryFailed("timeout", "the query takes too long")
    if code == sqlite3.SQLITE_TOOBIG:
        return QueryFailed("output_limit", "a value, or the statement, is too big")
    if code in (sqlite3.SQLITE_AUTH, sqlite3.SQLITE_READONLY) or not isinstance(error, sqlite3.Error) or code is None:
        return QueryFailed("rejected", f"the query is refused: {error}")
    return QueryFailed("wrong", f"the query fails: {error}")
