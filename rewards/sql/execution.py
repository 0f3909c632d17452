"""Shared by both SQL engines: databases, query results and their limits, time budgets, and a cache."""

import contextlib
import functools
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewards.sql.text import QueryFailed

Row = tuple[Any, ...]

ROW_LIMIT = 50_000
"""Largest number of rows of a result that is read, where the caller gives no limit."""
BYTE_LIMIT = 64_000_000
"""Largest number of bytes of text and blobs of one result."""
WALL_PER_SECOND = 2.2
"""Wall seconds of a time budget for each of its seconds of processor time."""
CACHE_LIMIT = 128 * 2**20
"""Largest number of bytes in one Cache."""


@dataclass(frozen=True)
class Database:
    """A database, given by the script that builds it or, for SQLite, by the path of its file or by its bytes."""

    engine: str
    """"sqlite" or "duckdb"."""
    script: str | None
    """None for a file and for bytes."""
    path: str = ""
    image: bytes = b""
    """Contents of an SQLite file; empty for a script and for a path."""

    @functools.cached_property
    def key(self) -> tuple[Any, ...]:
        """Cache key: the hash of the script or bytes, or the path, modification time and size of the file."""
        if self.script is not None or self.image:
            content = self.image if self.script is None else self.script.encode("utf-8", "surrogatepass")
            return self.engine, hashlib.blake2b(content, digest_size=16).digest()
        with contextlib.suppress(OSError, ValueError):
            status = Path(self.path).stat()
            return self.engine, self.path, status.st_mtime_ns, status.st_size
        return self.engine, self.path


@dataclass(frozen=True)
class Result:
    """The result of a query: column names, rows, and the columns of the database that the query read."""

    columns: tuple[str, ...]
    rows: list[Row]
    reads: frozenset[tuple[str, str]]
    """(table, column) in lower case; the column is "" if only the table is known."""

    @property
    def size(self) -> int:
        """Bytes of the rows, estimated as in `row_size`."""
        return sum(row_size(row) for row in self.rows)


@dataclass
class TimeBudget:
    """A limit on the processor time of the current thread and, for a busy machine, on wall time; the first one reached
    counts."""

    seconds: float
    """Seconds of processor time from the creation of this object."""
    started: float = field(default_factory=time.monotonic)
    started_cpu: float = field(default_factory=time.thread_time)

    @property
    def wall_seconds(self) -> float:
        """Wall seconds from the creation of this object."""
        return WALL_PER_SECOND * self.seconds

    def expired(self) -> bool:
        return self.seconds_left() <= 0

    def seconds_left(self) -> float:
        wall = self.wall_seconds - (time.monotonic() - self.started)
        return min(wall, self.seconds - self.used())

    def used(self) -> float:
        """Return the seconds of processor time since the creation of this object."""
        return time.thread_time() - self.started_cpu


class Cache:
    """A thread-safe cache that evicts the least recently used entries above `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self._entries: OrderedDict[Any, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: Any) -> bool:
        return key in self._entries

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


def take_rows(rows: Iterator[Row], limit: int) -> list[Row]:
    """Return the first `limit` + 1 rows, or all if there are fewer.

    The extra row shows that the result has more rows than the limit.
    Raises: QueryFailed (output_limit) above BYTE_LIMIT bytes.
    """
    taken: list[Row] = []
    size = 0
    for row in rows:
        taken.append(row)
        size += row_size(row)
        if size > BYTE_LIMIT:
            raise QueryFailed("output_limit", f"the result has more than {BYTE_LIMIT} bytes")
        if len(taken) > limit:
            break
    return taken


def row_size(row: Row) -> int:
    """Return the estimated bytes of a row: the length of texts and blobs, and 8 for any other cell."""
    return sum(len(cell) if isinstance(cell, str | bytes) else 8 for cell in row)
