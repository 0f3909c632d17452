"""`breadth report`: write figures and one self-contained HTML page about runs and an evaluation."""

import argparse

from rich.console import Console

from orchestrator.report.evaluation import read_evaluation
from orchestrator.report.inputs import named_runs
from orchestrator.report.write import write_report


def run(options: argparse.Namespace, console: Console) -> None:
    """Write the page to the path of `--output`."""
    runs = named_runs(options.runs)
    evaluation = read_evaluation(options.evaluation) if options.evaluation else None
    page = write_report(options.output, runs=runs, evaluation=evaluation, title="Breadth report")
    console.print(f"wrote {page}", soft_wrap=True)
