"""`breadth report`: write figures and one self-contained HTML page about runs and an evaluation."""

import argparse

from rich.console import Console

from orchestrator.evaluation.folders import latest
from orchestrator.report.evaluation import RESULTS, read_samplings
from orchestrator.report.inputs import named_runs
from orchestrator.report.write import write_report


def run(options: argparse.Namespace, console: Console) -> None:
    """Write the page to the path of `--output`, with the latest evaluation of the runs unless another one is given."""
    runs = named_runs(options.runs)
    if options.evaluation and not (options.evaluation / RESULTS).is_file():
        folder = latest([options.evaluation]) or options.evaluation
    else:
        folder = options.evaluation or latest(runs.values())
    evaluation, *samplings = read_samplings(folder) if folder else (None,)
    page = write_report(options.output, runs=runs, evaluation=evaluation, title="Breadth report", samplings=samplings)
    console.print(f"evaluation {folder or 'none'}\nwrote {page}", soft_wrap=True)
