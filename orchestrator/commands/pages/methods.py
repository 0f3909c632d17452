"""`breadth methods`: list the method presets, or show one: what it is for, its equations, and its settings."""

import argparse
import re
from itertools import takewhile
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from configs.load import preset
from configs.load import presets as names
from orchestrator.documentation.method_table import changed, comment

PAGES = Path(__file__).resolve().parents[3] / "docs" / "methods"


def run(options: argparse.Namespace, console: Console) -> None:
    """Print the line of every method and the settings it changes, or with NAME one method."""
    out = Console(highlight=False)
    if options.name is not None:
        preset("method", options.name)  # refuses an unknown name
        for line in page(options.name):
            out.print(escape(line), soft_wrap=True)
        return
    for name in names("method"):
        out.print(f"[bold]{name}[/bold]  {escape(summary(name))}", soft_wrap=True)
        out.print(f"    {escape(', '.join(changed(name)) or 'the defaults')}", soft_wrap=True)
    out.print("\n`breadth methods NAME` shows one method, `breadth train method=NAME` trains with it.")


def summary(name: str) -> str:
    """Return the opening sentence of a preset: the method, its paper and what is particular about it."""
    return " ".join(takewhile(lambda line: not line.startswith(" "), comment(name)))


def page(name: str) -> list[str]:
    """Return the lines about one method."""
    source = PAGES / f"{name}.md"  # an installed package has no pages
    head = source.read_text().partition("\n## ")[0].splitlines()[1:] if source.is_file() else []
    prose = takewhile(lambda line: not line.startswith("```"), head)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", "\n".join(prose)).strip()
    settings = [f"  {setting}" for setting in changed(name)] or ["  none"]
    return [
        name,
        *(["", *text.splitlines()] if text else []),
        "",
        *comment(name),
        "",
        "Settings that differ from the defaults:",
        *settings,
        "",
        f"breadth train method={name} trains with it, breadth show-config method={name} describes its gradients.",
        *([f"More: docs/methods/{name}.md"] if text else []),
    ]
