"""What a sink does: it copies the metrics, tables and alerts of a run to where a user watches them."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Sink(Protocol):
    """A copy of the metrics, tables and alerts of a run. The logbook turns a sink off when it raises."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Copy the metrics of `step`; a step may be written several times, with different metrics."""

    def table(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Copy a table; `rows` is not empty, and all rows have the same keys."""

    def alert(self, title: str, text: str) -> None:
        """Copy an event that needs the user's attention."""

    def close(self, failed: bool = False) -> None:
        """Send what is not sent yet, and end. `failed`: whether the run ended with an error."""
