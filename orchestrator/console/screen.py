"""The screen of a command: its lines, phases with their seconds, steps, measurements and alerts, on its displays.

Importing this loads no torch, Ray or vLLM, so that a command can say what it does before it loads them.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from orchestrator.console.display import Display, Phase
from orchestrator.console.lines import Lines
from orchestrator.console.record import CONSOLE_LOG, Record


class Screen:
    """Shows what a command does on all of its displays. It can be called with a line of text, as a function.

    Its methods may be called from several threads.
    """

    def __init__(self, *displays: Display) -> None:
        self.displays = list(displays)
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self.error: Exception | None = None
        """Of a display that is left out."""

    @staticmethod
    def of(log: Callable[[str], None]) -> "Screen":
        """Return `log` if it is a screen, else one that calls it with each line of text."""
        return log if isinstance(log, Screen) else Screen(Lines(log))

    def start_ticking(self) -> None:
        """Call `tick` of the displays from a thread, until the screen is closed."""
        threading.Thread(target=self._tick, name="screen", daemon=True).start()

    def _tick(self) -> None:
        while not self._closed.wait(1.0):
            self.show(lambda display: display.tick())

    def __call__(self, text: str) -> None:
        """Show a line of text."""
        self.show(lambda display: display.line(text))

    def show(self, act: Callable[[Display], None]) -> None:
        """Call `act` with every display. One that raises, as its output is closed, is left out from now on."""
        with self._lock:
            for display in list(self.displays):
                try:
                    act(display)
                except Exception as error:  # What is shown may not end what is done.
                    self.displays.remove(display)
                    self.error = error
                    if isinstance(display, Record):
                        self(f"warning: {CONSOLE_LOG} is no longer written: {error}")

    @contextmanager
    def phase(self, doing: str, done: str, *, of: str = "", brief: bool = False) -> Iterator[Phase]:
        """Show that something is being done and, at its end, the seconds that it took. Nothing then if it fails.

        Args:
            doing, done: in words: `starting the roles`, `started the roles`.
            of: what the progress of the phase counts.
            brief: as `Phase.brief`.

        Yields:
            The phase, to which the caller may add details and, by `progress`, how far it is.
        """
        phase = Phase(doing, done, of=of, brief=brief)
        self.show(lambda display: display.phase(phase))
        try:
            yield phase
            phase.state = "ends"
        except BaseException:
            phase.state = "fails"
            raise
        finally:
            phase.seconds = time.monotonic() - phase.began
            self.show(lambda display: display.phase(phase))

    def progress(self, phase: Phase, done: int, total: int) -> None:
        """Show how far a phase is."""
        phase.progress = done, total
        self.show(lambda display: display.phase(phase))

    def keep(self, folder: Path) -> None:
        """Keep everything that is shown in a file of this folder, also what was shown until now."""
        self._record(lambda record: record.keep(folder / CONSOLE_LOG))

    def kept_from(self) -> int:
        """Return how many bytes the kept file had before the lines of this command."""
        return next((display.begins for display in self.displays if isinstance(display, Record)), 0)

    def note(self, text: str) -> None:
        """Write text to the kept file alone."""
        self._record(lambda record: record.write(text))

    def _record(self, act: Callable[[Record], None]) -> None:
        self.show(lambda display: act(display) if isinstance(display, Record) else None)

    @property
    def seen(self) -> bool:
        """Whether there is a display besides the kept file."""
        return any(not isinstance(display, Record) for display in self.displays)

    def event(self, name: str, values: Mapping[str, Any]) -> None:
        """Show values for machines."""
        self.show(lambda display: display.event(name, values))

    def __enter__(self) -> "Screen":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the displays. An error is printed by `breadth`."""
        self.event("end", {"error": "" if error is None else f"{type(error).__name__}: {error}"})
        self._closed.set()
        self.show(lambda display: display.close())
