"""What a command does at this moment."""

import time
from collections.abc import Callable

from orchestrator.console.display import Phase


class Activity:
    """The innermost phase that has not ended; without one, what a run does in the step that it works on."""

    def __init__(self) -> None:
        self._phases: list[Phase] = []
        self._words, self._began = "", 0.0
        self._progress: Callable[[], str] | None = None

    def phase(self, phase: Phase) -> bool:
        """Note that a phase begins, goes on or ends. Returns whether it begins."""
        known = any(phase is other for other in self._phases)
        if phase.state != "begins":
            self._phases = [other for other in self._phases if other is not phase]
        elif not known:
            self._phases.append(phase)
        return phase.state == "begins" and not known

    def doing(self, step: int, activity: str, progress: Callable[[], str] | None) -> None:
        """Note what a run does in a step; nothing if `activity` is empty."""
        self._progress = progress
        self._words, self._began = f"step {step}: {activity}" if activity else "", time.monotonic()

    def clear(self) -> None:
        """Forget everything: the command has ended."""
        self._phases, self._words = [], ""

    def now(self) -> tuple[str, float]:
        """Return what is being done, empty if nothing, and since when, as `time.monotonic`."""
        if self._phases:
            return self._phases[-1].now(), self._phases[-1].began
        more = f" ({self._progress()})" if self._words and self._progress else ""
        return self._words + more, self._began
