"""Choose how a command is shown: in a terminal, as lines of text, or as lines of JSON."""

import sys
from typing import NoReturn

from rich.console import Console
from rich.text import Text

from orchestrator.console.display import Display
from orchestrator.console.json_lines import JsonLines
from orchestrator.console.lines import Lines
from orchestrator.console.record import Record
from orchestrator.console.screen import Screen
from orchestrator.console.terminal import TerminalDisplay


class _Terminal(Console):
    """A rich console that raises BrokenPipeError. rich itself exits the program when its output pipe is closed."""

    def on_broken_pipe(self) -> NoReturn:
        raise  # the BrokenPipeError being handled


def open_screen(*, json: bool = False, stderr: bool = False) -> Screen:
    """Return the screen of a command.

    Args:
        json: write lines of JSON to standard output.
        stderr: write text to standard error, where the command's results go to standard output.
    """
    display = _json_lines() if json else text_display(_Terminal(stderr=stderr, highlight=False))
    screen = Screen(display, Record())
    screen.start_ticking()
    return screen


def text_display(terminal: Console) -> Display:
    """Return the display for this terminal, or for the file or pipe in its place."""
    if terminal.is_terminal and not terminal.is_dumb_terminal:
        return TerminalDisplay(terminal)
    return Lines(lambda text: terminal.print(Text(text), soft_wrap=True))


def _json_lines() -> JsonLines:
    def write(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    return JsonLines(write)
