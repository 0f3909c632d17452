"""Shared by the commands: the settings of a command line, and plain lines on the console."""

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


def sayer(console: Console) -> Callable[[str], None]:
    """Return a function that prints a line of text without markup or wrapping."""
    return lambda text: console.print(escape(text), soft_wrap=True)
