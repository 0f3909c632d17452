"""Keep what libraries and Ray's workers log in the file of the run, and off the screen."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from orchestrator.console.screen import Screen


class _Handler(logging.Handler):
    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s: %(message)s"))
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno >= logging.ERROR:
            self._screen(text)  # which keeps it too
        else:
            self._screen.note(text)


@contextmanager
def logs_kept(screen: Screen) -> Iterator[None]:
    """Keep the warnings that libraries log in this process meanwhile, and show their errors."""
    handler = _Handler(screen)
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)


def keep_output(screen: Screen, batch: Mapping[str, Any]) -> None:
    """Keep lines that one of Ray's workers has printed.

    Args:
        batch: as Ray sends it to the driver: `lines`, `pid`, `ip`, `actor_name`. Ray also sends the state of its
            autoscaler, every 5 seconds, which is left out.
    """
    if batch.get("pid") == "autoscaler":
        return
    name = f"{batch.get('actor_name') or 'worker'} pid={batch.get('pid')} ip={batch.get('ip')}"
    lines = [f"({name}) {line}" for text in batch.get("lines", ()) for line in text.splitlines() if line.strip()]
    if lines:
        screen.note("\n".join(lines))
