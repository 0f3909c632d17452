"""Keep everything that a command shows, and what libraries log, in a file of the run."""

import time
from collections import deque
from pathlib import Path

from orchestrator.console.lines import Lines

CONSOLE_LOG = "console.log"
BUFFERED_LINES = 10_000
"""Lines that are kept while there is no file yet. The oldest are dropped."""


class Record(Lines):
    """Display that writes lines with their time to a file, once there is one."""

    def __init__(self) -> None:
        super().__init__(self.write)
        self._path: Path | None = None
        self.begins = 0
        """Bytes of the file before the lines of this command."""
        self._buffer: deque[str] = deque(maxlen=BUFFERED_LINES)

    def write(self, text: str) -> None:
        """Write lines of text."""
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self._buffer += [f"{now} {line}\n" for line in text.splitlines()]
        # A run that is refused removes its directory again.
        if self._path is not None and self._path.parent.is_dir():
            with self._path.open("a") as file:
                file.writelines(self._buffer)
            self._buffer.clear()

    def keep(self, path: Path) -> None:
        """Append all lines to the file `path` from now on, and those before it unless another file has them."""
        self._path = path
        self.begins = path.stat().st_size if path.exists() else 0
        self.write("")
