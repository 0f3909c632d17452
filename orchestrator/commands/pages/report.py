"""`breadth report`: write figures and one self-contained HTML page about runs and an evaluation."""

import argparse
import importlib

from rich.console import Console

from orchestrator.evaluation.folders import latest
from orchestrator.report.inputs import RESULTS, check_evaluation, named_runs


def run(options: argparse.Namespace, console: Console) -> None:
    """Write the page to the path of `--output`, with the latest evaluation of the runs unless another one is given."""
    runs = named_runs(options.runs)
    folder = options.evaluation or latest(runs.values())
    if options.evaluation and not (options.evaluation / RESULTS).is_file():
        folder = latest([options.evaluation]) or folder
    if folder:
        check_evaluation(folder)
    console.print("loading matplotlib, and drawing the figures ...")
    # They load scipy and matplotlib, so only after the checks.
    measured, writing = (importlib.import_module(f"orchestrator.report.{name}") for name in ("evaluation", "write"))
    evaluation, *samplings = measured.read_samplings(folder) if folder else (None,)
    page = writing.write_report(
        options.output, runs=runs, evaluation=evaluation, title="Breadth report", samplings=samplings
    )
    console.print(f"evaluation {folder or 'none'}\nwrote {page}", soft_wrap=True)
