"""Rows of text about a run: one per step in stable columns, and one per held-out measurement."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

Values = Mapping[str, float]

GAP = 2
"""Spaces between columns."""
HELD_OUT = "heldout/"


@dataclass(frozen=True)
class Column:
    """One metric of a step."""

    label: str
    width: int
    value: Callable[[Values], float | None]
    form: str
    rank: int
    """A narrow terminal shows the columns of the lowest ranks."""
    help: str = ""
    """What the label does not say."""

    def cell(self, values: Values) -> str:
        found = self.value(values)
        text = "-" if found is None or not math.isfinite(found) else self.form.format(found)
        if len(text) > self.width and found is not None:  # Else the whole row would move, and break in a terminal.
            text = f"{found:.0e}"
        return text.rjust(self.width)


def _metric(*names: str) -> Callable[[Values], float | None]:
    """Return the value of the first of these metrics that a record has."""
    return lambda values: next((values[name] for name in names if name in values), None)


def _waiting(values: Values) -> float | None:
    waited, whole = values.get("seconds/wait_generation"), values.get("seconds/step")
    return None if waited is None or not whole else waited / whole


COLUMNS = (
    Column("reward", 6, _metric("reward"), "{:.3f}", 0),
    Column("solved", 6, _metric("solved_groups"), "{:.0%}", 6, "groups with a right answer"),
    Column("cut", 4, _metric("truncated"), "{:.0%}", 5, "answers that reach the length limit"),
    Column("length", 6, _metric("answer_length"), "{:,.0f}", 9),
    Column("entropy", 7, _metric("entropy"), "{:.3f}", 1),
    Column("KL", 7, _metric("kl_reference_per_trajectory"), "{:.3g}", 3, "to the reference, nats per answer"),
    Column("update KL", 9, _metric("kl_update_per_trajectory"), "{:.3g}", 10),
    Column("grad", 6, _metric("grad_norm"), "{:.3g}", 8),
    Column("stale", 5, _metric("staleness"), "{:.1f}", 11, "steps between answers and update"),
    Column("tok/s", 7, _metric("tokens_per_second"), "{:,.0f}", 4),
    Column("wait", 4, _waiting, "{:.0%}", 7, "part of the step spent waiting for answers"),
    Column("s/step", 7, _metric("seconds/step"), "{:.1f}", 2),
)
MARKS = {"info": "", "warning": "warning: ", "alert": "ALERT: "}
"""What comes before an event, by its level."""


@dataclass
class Rows:
    """Format the records of one run.

    Args:
        total_steps: of the run.
        width: characters of a line; None where lines may be of any length.
    """

    total_steps: int
    width: int | None = None
    chosen: bool = field(default=False, init=False)
    """Whether the columns are chosen."""
    _columns: Sequence[Column] = field(default=(), init=False)

    def choose(self, values: Values) -> None:
        """Choose the columns: those of which this record has the metric, as far as the width allows."""
        room = math.inf if self.width is None else self.width - self._indent
        shown: set[str] = set()
        for column in sorted(COLUMNS, key=lambda column: column.rank):
            if column.value(values) is not None and column.width + GAP <= room:
                shown.add(column.label)
                room -= column.width + GAP
        self._columns = [column for column in COLUMNS if column.label in shown]
        self.chosen = True

    @property
    def _indent(self) -> int:
        """Width of the first column: the step of all steps."""
        return max(2 * len(str(self.total_steps)) + 1, len("step"))

    def legend(self) -> str:
        """Return what the labels mean that need it."""
        return "; ".join(f"{column.label}: {column.help}" for column in self._columns if column.help)

    def header(self) -> str:
        """Return the labels of the columns."""
        return self._join("step", [column.label.rjust(column.width) for column in self._columns], "left")

    def step(self, step: int, values: Values, left: str) -> str:
        """Return the row of one step.

        Args:
            left: the time that the remaining steps are expected to take; not shown where the width is limited.
        """
        return self._join(self._name(step), [column.cell(values) for column in self._columns], left)

    def measurement(self, step: int, values: Values) -> list[str]:
        """Return the lines about the held-out measurement of a step, which stand below its row."""
        first = f"{self._name(step)}  held out"
        lines = [first]
        for cell in measured_cells(values) if step else base_cells(values):
            if self.width is not None and len(lines[-1]) + GAP + len(cell) > self.width and lines[-1].strip():
                lines.append(" " * len(first))
            lines[-1] += " " * GAP + cell
        return lines

    def _name(self, step: int) -> str:
        return f"{step}/{self.total_steps}".rjust(self._indent)

    def _join(self, name: str, cells: Sequence[str], left: str) -> str:
        last = [left.rjust(8)] if self.width is None else []
        return (" " * GAP).join([name.rjust(self._indent), *cells, *last])


def measured_cells(values: Values) -> list[str]:
    """Return Pass@k of the smallest and the largest k, retention, expansion, KL to the base, and the margin beyond
    sharpening: those that were measured."""
    names = pass_names(values)
    cells = [f"{label} {with_change(values, name)}" for label, name in names]
    for name in ("retention", "expansion"):
        found = values.get(f"{HELD_OUT}{name}", math.nan)
        cells += [f"{name} {found:.2f}"] if math.isfinite(found) else []
    kl = values.get(f"{HELD_OUT}kl_to_base", math.nan)
    cells += [f"KL to base {kl:.3g}"] if math.isfinite(kl) and round(kl, 6) else []
    margin = names[-1][1].replace(HELD_OUT, f"{HELD_OUT}beyond_sharpening/") if names else ""
    if math.isfinite(values.get(margin, math.nan)):
        value, low, high = (values[f"{margin}{end}"] for end in ("", "/low", "/high"))
        cells.append(f"beyond sharpening @{margin.rpartition('@')[2]} {value:+z.3f} ({low:+z.2f} to {high:+z.2f})")
    return cells


def base_cells(values: Values) -> list[str]:
    """Return Pass@k of the smallest and the largest k of the start of a run, to which all others are compared."""
    return [f"{label} {values[name]:.3f}" for label, name in pass_names(values)] + ["(the base)"]


def pass_names(values: Values) -> list[tuple[str, str]]:
    """Return label and metric name of Pass@k for the smallest and the largest k in `values`."""
    prefix = f"{HELD_OUT}pass@"
    ks = sorted(int(name.removeprefix(prefix)) for name in values if name.removeprefix(prefix).isdecimal())
    return [(f"Pass@{k}", f"{prefix}{k}") for k in dict.fromkeys(ks[:1] + ks[-1:])]


def with_change(values: Values, name: str) -> str:
    """Return a Pass@k and its change since the run's base, if the base was measured."""
    change = values.get(name.replace(HELD_OUT, f"{HELD_OUT}change/"), math.nan)
    return f"{values[name]:.3f}" + (f" ({change:+z.3f})" if math.isfinite(change) else "")


def clock(seconds: float) -> str:
    """Return whole seconds as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


def event_line(level: str, title: str, text: str) -> str:
    """Return the line about an event."""
    return f"{MARKS[level]}{title}: {text}"
