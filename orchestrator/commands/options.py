"""Functions that several commands use: load the settings of a command line, and print lines of plain text."""

import argparse
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

from configs.config import Config
from configs.load import load
from orchestrator.commands.paths import absolute


def config(options: argparse.Namespace) -> Config:
    """Return the settings of `--config` and the key=value overrides, with absolute paths."""
    return absolute(load(options.overrides, options.config))


def line_printer(console: Console) -> Callable[[str], None]:
    """Return a function that prints one line of text, without rich markup and without wrapping."""
    return lambda text: console.print(escape(text), soft_wrap=True)
