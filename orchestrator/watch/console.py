"""The live console of a run: a progress bar and the main metrics; outside a terminal, one line per step."""

import math
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.console import Console as Terminal
from rich.console import Group as Stack
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text


class _Terminal(Terminal):
    """A rich console that raises BrokenPipeError. rich itself exits the program when its output pipe is closed."""

    def on_broken_pipe(self) -> None:
        raise  # the BrokenPipeError being handled


class Console:
    """Show the metrics that the logbook writes.

    Args:
        first_step: step from which this process goes on.
        measured: held-out values of the run's last measurement before `first_step`.
        terminal: a rich console, by default on standard output.
    """

    def __init__(
        self,
        *,
        run_name: str,
        total_steps: int,
        first_step: int,
        measured: Mapping[str, float] | None = None,
        terminal: Terminal | None = None,
    ) -> None:
        self._terminal = terminal or _Terminal()
        self._run_name = run_name
        self._total_steps = total_steps
        self._first_step = self._step = first_step
        self._last_printed_step: int | None = None
        self._written = False
        self._started = time.monotonic()
        self._values: dict[str, float] = dict(measured or {})
        columns = TextColumn("[bold]{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[clock]}")
        self._progress = Progress(*columns, console=self._terminal, expand=True)
        self._task = self._progress.add_task(run_name, total=total_steps, completed=first_step, clock="")
        self._live: Live | None = None
        if self._terminal.is_terminal and not self._terminal.is_dumb_terminal:
            self._live = Live(self._display(), console=self._terminal, refresh_per_second=4)
            self._live.start()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Show `values` of `step`, and the latest values of metrics that `values` does not hold."""
        self._step = step
        self._values.update(values)
        self._written = True
        if self._live is not None:
            self._live.update(self._display(), refresh=True)
        elif step != self._last_printed_step:
            self._last_printed_step = step
            self._print_line("  ".join(f"{label} {value}" for label, value in self._cells()))

    def table(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Do nothing: sampled answers are in trajectories.jsonl."""

    def alert(self, title: str, text: str) -> None:
        """Print the alert on a line of its own."""
        self._print_line(f"{title}: {text}")

    def close(self) -> None:
        """Stop the live display and print the last Pass@k values and their change since the base.

        Nothing is printed for a run that was refused before its first values.
        """
        if self._live is not None:
            self._live.stop()
            self._live = None
        if not self._written:
            return
        elapsed = timedelta(seconds=round(time.monotonic() - self._started))
        cells = [(label, self._with_change(name)) for label, name in self._pass_names()] + self._beyond_sharpening()
        pass_at_k = "  ".join(f"{label} {value}" for label, value in cells)
        line = f"{self._run_name} ended at step {self._step}/{self._total_steps} after {elapsed}  {pass_at_k}"
        self._print_line(line.rstrip())

    def _print_line(self, line: str) -> None:
        """Print `line` unchanged: square brackets in it are text, not rich markup."""
        self._terminal.print(Text(line), soft_wrap=True)

    def _display(self) -> Stack:
        elapsed = timedelta(seconds=round(time.monotonic() - self._started))
        self._progress.update(self._task, completed=self._step, clock=f"{elapsed} elapsed, {self._time_left()} left")
        grid = Table(box=None, padding=(0, 3, 0, 0))
        cells = self._cells()
        for label, _ in cells:
            grid.add_column(label, header_style="dim", no_wrap=True)
        grid.add_row(*(Text(value, style="bold") for _, value in cells))
        return Stack(self._progress, grid)

    def _cells(self) -> list[tuple[str, str]]:
        """Return labels and formatted values in display order, without metrics that have no value yet."""
        cells = [("step", f"{self._step}/{self._total_steps}")]
        cells += self._number("reward", "reward", "{:.3f}")
        cells += [(label, self._with_change(name)) for label, name in self._pass_names()]
        cells += self._beyond_sharpening()
        cells += self._number("entropy", "entropy", "{:.2f}")
        kl = "heldout/kl_to_base" if "heldout/kl_to_base" in self._values else "kl_reference_per_trajectory"
        cells += self._number("KL", kl, "{:.2f}")
        cells += self._number("staleness", "staleness", "{:.1f}")
        cells += self._number("tokens/s", "tokens_per_second", "{:,.0f}")
        waited, whole_step = self._values.get("seconds/wait_generation"), self._values.get("seconds/step")
        if waited is not None and whole_step:
            cells.append(("waiting", f"{waited / whole_step:.0%}"))
        if self._live is None:
            cells.append(("eta", self._time_left()))
        return cells

    def _number(self, label: str, name: str, form: str) -> list[tuple[str, str]]:
        return [(label, form.format(self._values[name]))] if name in self._values else []

    def _beyond_sharpening(self) -> list[tuple[str, str]]:
        """Return the margin of the largest measured k against the base at other temperatures, and its interval."""
        _, name = self._pass_names()[-1] if self._pass_names() else ("", "")
        name = name.replace("heldout/", "heldout/beyond_sharpening/")
        if not math.isfinite(self._values.get(name, math.nan)):
            return []
        value, low, high = (self._values[f"{name}{end}"] for end in ("", "/low", "/high"))
        return [(f"beyond sharpening @{name.rpartition('@')[2]}", f"{value:+.3f} ({low:+.2f} to {high:+.2f})")]

    def _pass_names(self) -> list[tuple[str, str]]:
        """Return label and metric name of Pass@k for the smallest and the largest k measured so far."""
        names = [name.removeprefix("heldout/pass@") for name in self._values if name.startswith("heldout/pass@")]
        ks = sorted(int(name) for name in names if name.isdigit())
        return [(f"Pass@{k}", f"heldout/pass@{k}") for k in dict.fromkeys(ks[:1] + ks[-1:])]

    def _with_change(self, name: str) -> str:
        """Return a Pass@k and its change since the run's base, if the base was measured."""
        change = self._values.get(name.replace("heldout/", "heldout/change/"), math.nan)
        return f"{self._values[name]:.3f}" + (f" ({change:+.3f})" if math.isfinite(change) else "")

    def _time_left(self) -> str:
        done = self._step - self._first_step
        if done <= 0:
            return "?"
        left = (time.monotonic() - self._started) / done * max(self._total_steps - self._step, 0)
        return str(timedelta(seconds=round(left)))
