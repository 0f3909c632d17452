"""What one measurement found: a row of the table, and the files that hold rows."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: Breadth beside a peer or a limit, one value per round.

    Example: Row(name="rollouts/vllm_lag1", title="rollouts, vLLM, lag 1", unit="answers/s", ours=(430.0, 441.0),
    other_name="TRL", other=(323.0, 330.0), goal=2.0)
    """

    name: str
    """Key of the row, SUBJECT/NAME."""
    title: str
    unit: str
    ours: tuple[float, ...] = ()
    """One value per round. Empty: not measured, and `reason` says why."""
    other_name: str = ""
    other: tuple[float, ...] = ()
    """Values of the peer or the limit in the same rounds; empty: none."""
    inverse: bool = False
    """Whether the ratio is other / ours (how many times as fast Breadth is, for times), not ours / other."""
    higher_is_better: bool = True
    """Of the compared values: the ratios, or `ours`."""
    goal: float | None = None
    """Least (where higher is better) or greatest median of the compared values."""
    compares_ours: bool = False
    """Whether goal and comparison concern `ours` although there is another value beside it."""
    note: str = ""
    reason: str = ""
    """Why the row, or the other value, was not measured."""
    date: str = ""
    """UTC."""

    def __post_init__(self) -> None:
        assert len(self.other) in (0, len(self.ours)), f"{self.name}: {len(self.ours)} rounds and {len(self.other)}"
        assert self.ours or self.reason, f"{self.name}: a row without values has a reason"

    @property
    def ratios(self) -> tuple[float, ...]:
        """Return the ratio of each round; empty without another value."""
        pairs = list(zip(self.ours, self.other, strict=False))
        return tuple(other / own if self.inverse else own / other for own, other in pairs)

    @property
    def compared(self) -> tuple[float, ...]:
        """Return the values that goal and comparison concern: the ratios, which depend least on the machine."""
        return self.ours if self.compares_ours or not self.other else self.ratios

    @property
    def met(self) -> bool | None:
        """Return whether the median of the compared values reaches the goal; None if either was not given."""
        if self.goal is None or not self.compared or (self.other_name and not self.other and not self.compares_ours):
            return None
        median = statistics.median(self.compared)
        return median >= self.goal if self.higher_is_better else median <= self.goal


def spread(values: Sequence[float]) -> float:
    """Return the largest value minus the smallest."""
    return max(values) - min(values)


def write_rows(path: Path, rows: Sequence[Row], about: dict[str, Any]) -> None:
    """Write a file of results: `about` and the rows, one line per row."""
    lines = ",\n".join(json.dumps(asdict(row)) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"about": {json.dumps(about)},\n"rows": [\n{lines}\n]}}\n')


def read_rows(path: Path) -> tuple[list[Row], dict[str, Any]]:
    """Return the rows of a file of results, and what it says about the run."""
    data = json.loads(path.read_text())
    return [_row(values) for values in data["rows"]], data["about"]


def _row(values: dict[str, Any]) -> Row:
    return Row(**values | {"ours": tuple(values["ours"]), "other": tuple(values["other"])})
