"""Files below one URL, through fsspec. Every call has a time limit, and raises StoreError for whatever went wrong."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec

T = TypeVar("T")
CALL_S = 60.0
"""Limit of a call that moves no file."""
FILE_S = 1800.0
"""Limit of a copy of one file."""
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""Extra of the package that a protocol needs."""
OPTIONS: dict[str, dict[str, Any]] = {
    # Without these, botocore waits for a server that does not answer for minutes.
    "s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 3}}},
    "file": {"auto_mkdir": True},
}


class StoreError(Exception):
    """A call to the store that failed, or did not answer in time."""


class Store:
    """The files below a URL. Names are relative to it, with `/`.

    Args:
        setting: the setting that holds the URL, for error messages.

    Raises:
        ValueError: the protocol is unknown, or its package is not installed.
    """

    def __init__(self, url: str, setting: str = "runs") -> None:
        self.url, self.setting = url.rstrip("/"), setting
        protocol = url.partition("://")[0]
        options = OPTIONS.get("s3" if protocol == "s3a" else protocol, {})
        try:
            self._fs, root = fsspec.core.url_to_fs(self.url, **options)
        except ImportError as error:
            extra = EXTRAS.get(protocol)
            line = f"pip install 'breadth[{extra}]'" if extra else str(error)
            raise ValueError(f"{setting}: must be a place whose package is installed ({line}), got {url!r}") from None
        except ValueError as error:
            raise ValueError(f"{setting}: must be a URL that fsspec knows, got {url!r}: {error}") from None
        self._root = root.rstrip("/")

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file below the URL; empty if there is nothing."""

        def find() -> dict[str, int]:
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(self._root, detail=True)
            except FileNotFoundError:
                return {}
            return {name.removeprefix(self._root).lstrip("/"): int(info["size"]) for name, info in found.items()}

        return self._bounded(find, CALL_S)

    def put(self, source: Path, name: str, limit_s: float = FILE_S) -> None:
        """Copy a local file to the store."""
        self._bounded(lambda: self._fs.put_file(str(source), self._path(name)), limit_s)

    def get(self, name: str, target: Path) -> None:
        """Copy a file of the store to a local path, whose folder is made."""
        target.parent.mkdir(parents=True, exist_ok=True)
        self._bounded(lambda: self._fs.get_file(self._path(name), str(target)), FILE_S)

    def read(self, name: str) -> bytes:
        """Return the content of a small file."""
        return bytes(self._bounded(lambda: self._fs.cat_file(self._path(name)), CALL_S))

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        self._bounded(lambda: self._fs.pipe_file(self._path(name), content), CALL_S)

    def remove(self, name: str) -> None:
        """Remove a file. Nothing happens if there is none."""

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._path(name))

        self._bounded(remove, CALL_S)

    def check_writable(self) -> None:
        """Raise ValueError unless files can be written to the store and listed."""
        name = ".breadth-probe"
        try:
            self.write(name, b"x")
            self.remove(name)
        except StoreError as error:
            rule = "must be a place that this user can write to"
            raise ValueError(f"{self.setting}: {rule}, got {self.url!r}: {error}") from None

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _bounded(self, call: Callable[[], T], limit_s: float) -> T:
        """Return what a call returns. It runs in a thread that the end of the process does not wait for."""
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(call())
            except BaseException as error:  # The libraries of stores raise classes of their own.
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True, name="remote-runs")
        thread.start()
        thread.join(limit_s)
        if thread.is_alive():
            raise StoreError(f"no answer within {limit_s:.0f} s")
        if errors:
            raise StoreError(f"{type(errors[0]).__name__}: {errors[0]}"[:500]) from errors[0]
        return results[0]
