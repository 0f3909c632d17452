"""`breadth report`: write figures and one self-contained HTML page about runs and an evaluation."""

import argparse
import importlib

from rich.console import Console

from orchestrator.report.inputs import check_evaluation, named_runs


def run(options: argparse.Namespace, console: Console) -> None:
    """Write the page to the path of `--output`."""
    runs = named_runs(options.runs)
    if options.evaluation:
        check_evaluation(options.evaluation)
    # They load scipy and matplotlib, so only after the checks.
    measured, writing = (importlib.import_module(f"orchestrator.report.{name}") for name in ("evaluation", "write"))
    evaluation = measured.read_evaluation(options.evaluation) if options.evaluation else None
    page = writing.write_report(options.output, runs=runs, evaluation=evaluation, title="Breadth report")
    console.print(f"wrote {page}", soft_wrap=True)
