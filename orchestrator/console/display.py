"""What a display of a command shows, and a phase of a command.

Importing this loads no torch, Ray or vLLM, so that a command can say what it does before it loads them.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

RUN_ENDED = "run_ended"
"""Name of the event at the end of a run."""


@dataclass
class Phase:
    """A part of a command that takes time, such as starting the roles."""

    doing: str
    """What is being done: `starting the roles`."""
    done: str
    """What was done: `started the roles`. Empty if no line is to say so."""
    brief: bool = False
    """Whether many such phases follow one another, so that lines of text say only that each is done."""
    state: Literal["begins", "ends", "fails"] = "begins"
    progress: tuple[int, int] | None = None
    """How many of how many are done."""
    of: str = ""
    """What `progress` counts."""
    count: Callable[[], tuple[int, int]] | None = None
    """Returns the progress where nobody reports it. It may be called from another thread."""
    details: list[str] = field(default_factory=list)
    """Added to the line at the end, in brackets."""
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    """Wall time, once it has ended."""

    def now(self) -> str:
        """Return what is being done, and how far it is."""
        done, total = self.count() if self.count else self.progress or (0, 0)
        if not total:
            return self.doing
        return f"{self.doing}: {done:,} of {total:,} {self.of}".rstrip()

    def finished(self) -> str:
        """Return what was done, and its seconds."""
        more = f" ({', '.join(self.details)})" if self.details else ""
        return f"{self.done} in {self.seconds:.1f} s{more}"


class Display(Protocol):
    """Where a screen is shown: a terminal, lines of text, or lines of JSON."""

    def line(self, text: str) -> None:
        """Show a line of text, or several."""

    def phase(self, phase: Phase) -> None:
        """Show that a phase begins, goes on or ends."""

    def run(self, name: str, total_steps: int, first_step: int) -> None:
        """Get ready for the steps of a run."""

    def step(self, step: int, values: Mapping[str, float], left: str) -> None:
        """Show the metrics of a step, and the time that the remaining ones are expected to take."""

    def measurement(self, step: int, values: Mapping[str, float]) -> None:
        """Show a held-out measurement of a step, after the step itself."""

    def alert(self, level: str, title: str, text: str) -> None:
        """Show an event of this level: info, warning or alert."""

    def doing(self, step: int, activity: str, progress: Callable[[], str] | None = None) -> None:
        """Show what the run does now, in the step that it works on, and how far it is; nothing if it is empty."""

    def tick(self) -> None:
        """Is called about once a second."""

    def event(self, name: str, values: Mapping[str, Any]) -> None:
        """Show values for machines, which people see in a line of text."""

    def close(self) -> None:
        """Give the terminal back."""
