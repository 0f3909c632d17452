"""The console of a run: a sink of the logbook that shows steps, measurements and alerts on the screen."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.console.display import RUN_ENDED
from orchestrator.console.rows import HELD_OUT, clock, pass_names, with_change
from orchestrator.console.screen import Screen

RECENT_STEPS = 20
"""Steps whose mean time predicts that of the remaining ones."""
ACTIVITIES = {
    "wait_generation": "waiting for answers",
    "reference": "scoring with the references",
    "score": "scoring with the learner",
    "update": "updating the policy",
    "publish": "publishing the weights",
    "measure": "measuring the held-out prompts",
    "kl_update": "measuring the update",
}
"""What a run does while a call is on, by its name in `seconds/NAME`."""


class RunConsole:
    """Shows the metrics that the logbook writes.

    Args:
        screen: where they are shown.
        first_step: step from which this process goes on.
        measured: held-out values of the run's last measurement before `first_step`.
    """

    def __init__(
        self,
        screen: Screen,
        *,
        run_name: str,
        total_steps: int,
        first_step: int,
        measured: Mapping[str, float] | None = None,
    ) -> None:
        self._screen = screen
        self._run_name, self._total_steps, self._step = run_name, total_steps, first_step
        self._written = False
        self._began = time.monotonic()
        self._ends: deque[tuple[int, float]] = deque([(first_step, self._began)], maxlen=RECENT_STEPS + 1)
        """Steps, and when they ended, as `time.monotonic`."""
        self._measured = dict(measured or {})
        screen.show(lambda display: display.run(run_name, total_steps, first_step))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Show the metrics of `step`, or the held-out measurement that is added to them."""
        held_out = {name: value for name, value in values.items() if name.startswith(HELD_OUT)}
        others = {name: value for name, value in values.items() if name not in held_out}
        self._step, self._written = step, True
        if "reward" in others or "seconds/step" in others:
            self._ends.append((step, time.monotonic()))
            left = self._time_left()
            self._screen.show(lambda display: display.step(step, others, left))
        if held_out:
            self._measured = held_out
            self._screen.show(lambda display: display.measurement(step, held_out))
        self._check()

    def table(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Do nothing: sampled answers are in trajectories.jsonl."""

    def alert(self, title: str, text: str) -> None:
        """Show an event that needs the user's attention."""
        self.note("alert", title, text)

    def note(self, level: str, title: str, text: str) -> None:
        """Show an event of this level: info, warning or alert."""
        self._screen.show(lambda display: display.alert(level, title, text))
        self._check()

    def doing(self, name: str, progress: Callable[[], str]) -> None:
        """Show that a call begins, by its name in `seconds/NAME`; `progress` says how far the generation is."""
        if name == "wait_generation" and len(self._ends) == 1:  # The steps begin now.
            self._ends[0] = (self._ends[0][0], time.monotonic())
        if name in ACTIVITIES:
            more = progress if name == "wait_generation" else None
            self._screen.show(lambda display: display.doing(self._step + 1, ACTIVITIES[name], more))

    def close(self, failed: bool = False) -> None:
        """Show how the run ended, with the last Pass@k values and their change since the base.

        Nothing is shown of a run that was refused before its first values.
        """
        self._screen.show(lambda display: display.doing(self._step, ""))
        if not self._written:
            return
        seconds = time.monotonic() - self._began
        facts = {"name": self._run_name, "step": self._step, "steps": self._total_steps, "seconds": seconds}
        self._screen.event(RUN_ENDED, {**facts, **self._measured})
        self._screen(f"{self._run_name} ended at step {self._step}/{self._total_steps} after {clock(seconds)}")
        names = [f"{label} {with_change(self._measured, name)}" for label, name in pass_names(self._measured)]
        if names:
            self._screen(f"last measured: {'  '.join(names)}")

    def _time_left(self) -> str:
        (first, began), (last, ended) = self._ends[0], self._ends[-1]
        return clock((ended - began) / (last - first) * max(self._total_steps - last, 0)) if last > first else "?"

    def _check(self) -> None:
        """Raise the error of the last display that could be seen, so that the logbook reports it."""
        if self._screen.error is not None and not self._screen.seen:
            raise self._screen.error
