"""Show a command in a terminal: what is done stays as lines, and what goes on is shown in two lines below them."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from orchestrator.console.activity import Activity
from orchestrator.console.display import RUN_ENDED, Phase
from orchestrator.console.rows import Rows, clock, event_line

REFRESHES_PER_S = 4
STYLES: Mapping[str, str] = {"info": "", "warning": "yellow", "alert": "bold red"}
SHORTEST_SHOWN_S = 0.05
"""Phases that take less leave no line."""


class TerminalDisplay:
    """Display on a terminal that can move its cursor.

    Args:
        terminal: a rich console.
    """

    def __init__(self, terminal: Console) -> None:
        self._terminal, self._activity = terminal, Activity()
        self._spinner = Spinner("dots")
        self._rows = Rows(0, width=terminal.width)
        self._name, self._step, self._left = "", 0, ""
        self._began = time.monotonic()
        self._since_header = 0
        """Rows since the labels of the columns were written."""
        self._live = Live(
            get_renderable=self._below, console=terminal, refresh_per_second=REFRESHES_PER_S, transient=True
        )
        self._live.start()

    def line(self, text: str) -> None:
        self._print(text)

    def phase(self, phase: Phase) -> None:
        if self._activity.phase(phase):
            self._live.refresh()
        elif phase.state == "ends" and phase.done and phase.seconds >= SHORTEST_SHOWN_S:
            self._print(phase.finished(), "green")

    def run(self, name: str, total_steps: int, first_step: int) -> None:
        self._name, self._step, self._left = name, first_step, ""
        self._rows = Rows(total_steps, width=self._terminal.width)
        self._began = time.monotonic()

    def step(self, step: int, values: Mapping[str, float], left: str) -> None:
        width = self._terminal.width
        if not self._rows.chosen or self._rows.width != width:
            self._rows.width = width
            self._rows.choose(values)
            self._terminal.print(Text(self._rows.legend(), style="dim"))
            self._since_header = self._terminal.height
        # The labels stay in sight.
        if self._since_header >= max(self._terminal.height - 6, 10):
            self._print(self._rows.header(), "bold")
            self._since_header = 0
        self._step, self._left = step, left
        self._print(self._rows.step(step, values, left))
        self._since_header += 1

    def measurement(self, step: int, values: Mapping[str, float]) -> None:
        for line in self._rows.measurement(step, values):
            self._print(line, "cyan")
            self._since_header += 1

    def alert(self, level: str, title: str, text: str) -> None:
        # An alert is prose. Others may have a command or a path, which must be copied in one piece.
        self._terminal.print(Text(event_line(level, title, text), style=STYLES[level]), soft_wrap=level != "alert")

    def doing(self, step: int, activity: str, progress: Callable[[], str] | None = None) -> None:
        self._activity.doing(step, activity, progress)

    def tick(self) -> None:
        self._live.refresh()

    def event(self, name: str, values: Mapping[str, Any]) -> None:
        if name == RUN_ENDED:
            self._rows = Rows(0)  # no progress bar until another run begins

    def close(self) -> None:
        self._activity.clear()
        self._live.stop()

    def _print(self, text: str, style: str = "") -> None:
        """Print text unchanged: square brackets in it are text, not rich markup, and paths are not broken."""
        self._terminal.print(Text(text, style=style), soft_wrap=True)

    def _below(self) -> RenderableType:
        """Return what is shown below the lines."""
        parts: list[RenderableType] = []
        total = self._rows.total_steps
        if total:
            elapsed = f"{self._step}/{total}  {clock(time.monotonic() - self._began)} elapsed"
            left = f", {self._left} left" if self._left else ""
            bar = Table.grid(padding=(0, 1), expand=True)
            bar.add_column(no_wrap=True, overflow="ellipsis", max_width=24)
            bar.add_column(ratio=1)
            bar.add_column(no_wrap=True)
            bar.add_row(Text(self._name, style="bold"), ProgressBar(total, self._step), elapsed + left)
            parts.append(bar)
        words, began = self._activity.now()
        if words:
            seconds = f"  {time.monotonic() - began:.0f} s"
            self._spinner.update(text=Text(words[: self._terminal.width - len(seconds) - 3] + seconds))
            parts.append(self._spinner)
        return Group(*parts)
