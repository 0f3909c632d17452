"""`breadth report`: write figures and one self-contained HTML page about runs and an evaluation."""

import argparse

from rich.console import Console

from orchestrator.report.evaluation import read_samplings
from orchestrator.report.inputs import named_runs
from orchestrator.report.write import write_report


def run(options: argparse.Namespace, console: Console) -> None:
    """Write the page to the path of `--output`."""
    runs = named_runs(options.runs)
    evaluation, *samplings = read_samplings(options.evaluation) if options.evaluation else (None,)
    page = write_report(options.output, runs=runs, evaluation=evaluation, title="Breadth report", samplings=samplings)
    console.print(f"wrote {page}", soft_wrap=True)
