"""Read console.log of a run while it grows, for a copy of it."""

from pathlib import Path

CHUNK = 65_536
"""Bytes read at once. The rest is read by later calls."""


class ConsoleLog:
    """The lines that a command adds to console.log. It is read from one thread while others write.

    Args:
        begins: bytes of the file before the lines of this command.
    """

    def __init__(self, path: Path, begins: int) -> None:
        self._path, self._read = path, begins

    def new_lines(self) -> str:
        """Return whole lines that were not returned before, up to CHUNK bytes; empty if there are none to be read."""
        try:
            if self._path.stat().st_size <= self._read:
                return ""
            with self._path.open("rb") as file:
                file.seek(self._read)
                chunk = file.read(CHUNK)
        except OSError:  # no file yet, or a file system that fails for a while, which may not end the copy of metrics
            return ""
        # A line may be half written. One longer than a chunk is returned in parts.
        whole = chunk[: chunk.rfind(b"\n") + 1] or (chunk if len(chunk) == CHUNK else b"")
        self._read += len(whole)
        return whole.decode("utf-8", "replace")
