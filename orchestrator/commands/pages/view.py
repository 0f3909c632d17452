"""`breadth view`: show the sampled answers of a run in a browser, in the terminal, or as one HTML file."""

import argparse
import sys

from rich.console import Console

from configs.checks import require
from orchestrator.commands.options import line_printer
from orchestrator.remote_runs.fetch import local_run
from orchestrator.viewer.answer_file import AnswerFile
from orchestrator.viewer.choice import Choice
from orchestrator.viewer.page import exported
from orchestrator.viewer.serve import serve
from orchestrator.viewer.terminal import show
from trajectories.atomic_write import replace_file

ANSWERS = "trajectories.jsonl"
"""File of a run with its sampled answers."""


def run(options: argparse.Namespace, console: Console) -> None:
    """Show the answers of the run RUN until Ctrl-C, or write or print them and end."""
    require(0 <= options.port < 2**16, "--port", "must be between 0 (a free one) and 65535", options.port)
    require(options.last > 0, "--last", "must be positive", options.last)
    folder = local_run(options.run, line_printer(console))
    is_run = folder.is_dir() and ((folder / ANSWERS).is_file() or (folder / "config.yaml").is_file())
    require(is_run, "RUN", "must be the directory of a run", options.run)
    name = folder.resolve().name
    if not (options.export or options.terminal):
        serve(name, folder / ANSWERS, options.port, lambda text: console.print(text, soft_wrap=True, markup=False))
        return
    answers = AnswerFile(folder / ANSWERS)
    while answers.refresh():
        pass
    choice = Choice(**{field: getattr(options, field) for field in Choice.__dataclass_fields__})
    numbers = choice.numbers(answers)
    if options.terminal:
        show(Console(file=sys.stdout, highlight=False), answers, numbers[-options.last :], options.colour)
        return
    with replace_file(options.export) as file:
        file.write(exported(name, answers, numbers).encode("utf-8", "replace"))
    console.print(f"wrote {options.export}: {len(numbers)} answers of {name}", soft_wrap=True, markup=False)
