"""`breadth inspect-task`: report duplicates, diversity, novelty and contamination of a task's prompts."""

import argparse
import functools
import importlib
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from actors.loading import collector_paused
from orchestrator.commands.hub import fetched
from orchestrator.commands.options import config
from orchestrator.console.choice import open_screen
from orchestrator.preflight.machine import check_writable
from orchestrator.preflight.named import check_inspection


def run(options: argparse.Namespace, console: Console) -> None:
    """Write the report to the path of `--output`, and print its tables."""
    if options.output.suffix != ".html":
        raise ValueError(f"--output: must end in .html, got {str(options.output)!r}")
    check_writable(options.output.absolute().parent, "--output", str(options.output))
    with open_screen(stderr=True) as screen:
        cfg = fetched(config(options), screen)
        check_inspection(cfg)
        # They load torch and matplotlib, which takes seconds, so only after the checks.
        with screen.phase("loading torch and matplotlib", "loaded torch and matplotlib"), collector_paused():
            job = importlib.import_module("orchestrator.inspection.job")
            words = importlib.import_module("orchestrator.inspection.words")
        with screen.phase("inspecting the task", "inspected the task", of="prompts") as phase:
            findings = job.inspect(cfg, options.output, functools.partial(screen.progress, phase))
    out = Console(highlight=False)
    # A set has many cells and there are few sets, so each is a column.
    out.print(_table(*zip(words.SETS, *words.set_rows(findings), strict=True)))
    out.print(_table(words.PAIRS, *words.pair_rows(findings)))
    for question, answer in words.answers(findings).items():
        out.print(f"[bold]{question}[/bold] {escape(answer)}", soft_wrap=True)
    out.print(f"wrote {escape(str(options.output))}, and its numbers as a .json file beside it", soft_wrap=True)


def _table(head: Sequence[str], *rows: Sequence[str]) -> Table:
    table = Table(*map(escape, head), box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*map(escape, row))
    return table
