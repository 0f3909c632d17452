"""`breadth report`: write figures and one self-contained HTML page about runs and an evaluation."""

import argparse
import importlib

from rich.console import Console

from orchestrator.evaluation.folders import latest, latest_of_each
from orchestrator.report.inputs import RESULTS, check_evaluation, named_runs


def run(options: argparse.Namespace, console: Console) -> None:
    """Write the page to the path of `--output`, with the latest evaluation of each run unless another one is given."""
    runs = named_runs(options.runs)
    folder = options.evaluation or latest(runs.values())
    if options.evaluation and not (options.evaluation / RESULTS).is_file():
        folder = latest([options.evaluation]) or folder
    if folder:
        check_evaluation(folder)
    # They load scipy and matplotlib, so only after the checks.
    measured, writing = (importlib.import_module(f"orchestrator.report.{name}") for name in ("evaluation", "write"))
    folders = [folder] if options.evaluation else latest_of_each(runs.values())
    evaluation, *samplings = measured.read_compared(folders) if folder else (None,)
    page = writing.write_report(
        options.output, runs=runs, evaluation=evaluation, title="Breadth report", samplings=samplings
    )
    shown = ", ".join(map(str, folders if folder else ["none"]))
    console.print(f"evaluation {shown}\nwrote {page}", soft_wrap=True)
