"""Show a command as lines of text, where the output is no terminal: a file, a pipe, or the log of a job."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.console.activity import Activity
from orchestrator.console.display import RUN_ENDED, Phase
from orchestrator.console.rows import Rows, event_line

FIRST_WAIT_S = 10.0
"""Silence after which a line says what still goes on. The next one comes after twice this, and so on."""
LONGEST_WAIT_S = 640.0
STEPS_WAIT_S = 60.0
"""The same between two steps, but at least three times the seconds of the last one."""
ROWS = 40
"""Rows after which the labels of the columns are repeated."""


class Lines:
    """Display of plain lines.

    Args:
        write: called with each line, without its end.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write, self._activity = write, Activity()
        self._rows = Rows(0)
        self._since_header = 0
        """Rows since the labels of the columns were written."""
        self._first_wait_s = FIRST_WAIT_S
        self._written_at, self._wait_s = time.monotonic(), FIRST_WAIT_S

    def line(self, text: str) -> None:
        self._write(text)
        self._written_at, self._wait_s = time.monotonic(), self._first_wait_s

    def phase(self, phase: Phase) -> None:
        if self._activity.phase(phase):
            if not phase.brief:
                self.line(f"{phase.doing} ...")
        elif phase.state == "ends" and phase.done:
            self.line(phase.finished())

    def run(self, name: str, total_steps: int, first_step: int) -> None:
        self._rows = Rows(total_steps)

    def step(self, step: int, values: Mapping[str, float], left: str) -> None:
        if not self._rows.chosen:
            self._rows.choose(values)
            self.line(self._rows.legend())
            self._since_header = ROWS
        if self._since_header >= ROWS:
            self.line(self._rows.header())
            self._since_header = 0
        self._first_wait_s = max(STEPS_WAIT_S, 3 * values.get("seconds/step", 0.0))
        self.line(self._rows.step(step, values, left))
        self._since_header += 1

    def measurement(self, step: int, values: Mapping[str, float]) -> None:
        for line in self._rows.measurement(step, values):
            self.line(line)

    def alert(self, level: str, title: str, text: str) -> None:
        self.line(event_line(level, title, text))

    def doing(self, step: int, activity: str, progress: Callable[[], str] | None = None) -> None:
        self._activity.doing(step, activity, progress)

    def tick(self) -> None:
        """Write what still goes on, if nothing was written for long."""
        words, began = self._activity.now()
        now = time.monotonic()
        if words and now >= max(self._written_at, began) + self._wait_s:
            self._write(f"{words}, {now - began:.0f} s so far")
            self._written_at, self._wait_s = now, max(self._wait_s, min(2 * self._wait_s, LONGEST_WAIT_S))

    def event(self, name: str, values: Mapping[str, Any]) -> None:
        if name == RUN_ENDED:
            self._first_wait_s = FIRST_WAIT_S

    def close(self) -> None:
        self._activity.clear()
