"""The live console of a run: a progress bar and the numbers that matter; away from a terminal a line per step."""

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
    """rich ends the program when its reader goes away (`| head`); a run must outlive its audience."""

    def on_broken_pipe(self) -> None:
        raise  # the BrokenPipeError being handled


class Console:
    """Shows what the logbook writes. `terminal` is rich's console, standard output by default."""

    def __init__(self, *, run_name: str, total_steps: int, first_step: int, terminal: Terminal | None = None) -> None:
        self._terminal = terminal or _Terminal()
        self._run_name = run_name
        self._total = total_steps
        self._first = self._step = first_step
        self._last_line: int | None = None
        self._started = time.monotonic()
        self._values: dict[str, float] = {}
        self._start: dict[str, float] = {}
        columns = TextColumn("[bold]{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[clock]}")
        self._progress = Progress(*columns, console=self._terminal, expand=True)
        self._task = self._progress.add_task(run_name, total=total_steps, completed=first_step, clock="")
        self._live: Live | None = None
        if self._terminal.is_terminal and not self._terminal.is_dumb_terminal:
            self._live = Live(self._picture(), console=self._terminal, refresh_per_second=4)
            self._live.start()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Show `values` of `step` beside the latest ones of earlier steps."""
        self._step = step
        self._values.update(values)
        for name, value in values.items():
            self._start.setdefault(name, value)
        if self._live is not None:
            self._live.update(self._picture(), refresh=True)
        elif step != self._last_line:
            self._last_line = step
            self._say("  ".join(f"{label} {value}" for label, value in self._cells()))

    def table(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Sampled answers are read in trajectories.jsonl, not here."""

    def alert(self, title: str, text: str) -> None:
        self._say(f"{title}: {text}")

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        took = timedelta(seconds=round(time.monotonic() - self._started))
        held_out = "  ".join(f"{label} {self._with_change(name)}" for label, name in self._pass_names())
        self._say(f"{self._run_name} ended at step {self._step}/{self._total} after {took}  {held_out}".rstrip())

    def _say(self, line: str) -> None:
        """Print one line as it is: square brackets in it are text, never markup."""
        self._terminal.print(Text(line), soft_wrap=True)

    def _picture(self) -> Stack:
        elapsed = timedelta(seconds=round(time.monotonic() - self._started))
        self._progress.update(self._task, completed=self._step, clock=f"{elapsed} elapsed, {self._eta()} left")
        grid = Table(box=None, padding=(0, 3, 0, 0))
        cells = self._cells()
        for label, _ in cells:
            grid.add_column(label, header_style="dim", no_wrap=True)
        grid.add_row(*(Text(value, style="bold") for _, value in cells))
        return Stack(self._progress, grid)

    def _cells(self) -> list[tuple[str, str]]:
        """Labels and values, in the order shown; a value never written yet is left out."""
        cells = [("step", f"{self._step}/{self._total}")]
        cells += self._number("reward", "reward", "{:.3f}")
        cells += [(label, self._with_change(name)) for label, name in self._pass_names()]
        cells += self._number("entropy", "entropy", "{:.2f}")
        kl = "heldout/kl_to_base" if "heldout/kl_to_base" in self._values else "kl_reference_per_trajectory"
        cells += self._number("KL", kl, "{:.2f}")
        cells += self._number("staleness", "staleness", "{:.1f}")
        cells += self._number("tokens/s", "tokens_per_second", "{:,.0f}")
        waited, whole = self._values.get("seconds/wait_generation"), self._values.get("seconds/step")
        if waited is not None and whole:
            cells.append(("waiting", f"{waited / whole:.0%}"))
        if self._live is None:
            cells.append(("eta", self._eta()))
        return cells

    def _number(self, label: str, name: str, form: str) -> list[tuple[str, str]]:
        return [(label, form.format(self._values[name]))] if name in self._values else []

    def _pass_names(self) -> list[tuple[str, str]]:
        """Pass@1 and the Pass@k of the largest k measured so far."""
        names = [name.removeprefix("heldout/pass@") for name in self._values if name.startswith("heldout/pass@")]
        ks = sorted(int(name) for name in names if name.isdigit())
        return [(f"Pass@{k}", f"heldout/pass@{k}") for k in dict.fromkeys(ks[:1] + ks[-1:])]

    def _with_change(self, name: str) -> str:
        change = self._values[name] - self._start[name]
        return f"{self._values[name]:.3f} ({change:+.3f})"

    def _eta(self) -> str:
        done = self._step - self._first
        if done <= 0:
            return "?"
        left = (time.monotonic() - self._started) / done * max(self._total - self._step, 0)
        return str(timedelta(seconds=round(left)))
