"""Functions that several commands use: load the settings of a command line, print lines, and load what starts roles."""

import argparse
import functools
import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

from rich.console import Console
from rich.markup import escape

from actors.loading import collector_paused
from configs.config import Config
from configs.load import load
from orchestrator.commands.paths import absolute
from orchestrator.console.libraries import keep_output
from orchestrator.console.screen import Screen


def config(options: argparse.Namespace) -> Config:
    """Return the settings of `--config` and the key=value overrides, with absolute paths."""
    return absolute(load(options.overrides, options.config))


def line_printer(console: Console) -> Callable[[str], None]:
    """Return a function that prints one line of text, without rich markup and without wrapping."""
    return lambda text: console.print(escape(text), soft_wrap=True)


def load_modules(cfg: Config, *names: str, report: Callable[[str], None] = lambda line: None) -> list[ModuleType]:
    """Import modules that load torch and start roles, which takes seconds. Ray, if it is needed, starts meanwhile.

    Args:
        report: the screen of the command, or a function that is called with each line for the user.
    """
    screen = Screen.of(report)
    loading_all = screen.phase("loading torch and transformers", "loaded torch and transformers")
    with ThreadPoolExecutor(1) as beside, collector_paused(), loading_all:
        loading = beside.submit(lambda: [importlib.import_module(name) for name in names])
        if cfg.placement.kind == "ray":
            # In this thread, because Ray handles signals.
            with screen.phase("starting or joining Ray", "started Ray"):
                importlib.import_module("orchestrator.connection").connect(functools.partial(keep_output, screen))
        return loading.result()
