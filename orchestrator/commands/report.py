"""`breadth report`: write figures and one self-contained HTML page about runs and an evaluation."""

import argparse

from rich.console import Console

from orchestrator.report.inputs import named_runs, read_evaluation
from orchestrator.report.write import write_report


def run(options: argparse.Namespace, console: Console) -> None:
    """Write the page to the path of `--output`."""
    runs = named_runs(options.runs)
    measurements, base, ks = read_evaluation(options.evaluation) if options.evaluation else ({}, "", [1])
    page = write_report(options.output, runs=runs, measurements=measurements, base=base, ks=ks, title="Breadth report")
    console.print(f"wrote {page}", soft_wrap=True)
