"""`breadth export`: write the policy of a checkpoint as a Hugging Face directory with a model card."""

import argparse
import importlib

from rich.console import Console

from configs.checks import require
from orchestrator.commands.options import line_printer
from orchestrator.manifest import SETTINGS
from orchestrator.remote_runs.fetch import local_run


def run(options: argparse.Namespace, console: Console) -> None:
    """Export a policy of the run directory RUN to the path of `--output`."""
    output = options.output
    new = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    require(new, "--output", "must be a new or empty directory", str(output))
    step = "last" if options.step is None else str(options.step)
    run_dir = local_run(options.run, line_printer(console), checkpoint=step)
    is_run = (run_dir / SETTINGS).is_file() and (run_dir / "checkpoints").is_dir()
    require(is_run, "RUN", "must be a run directory with checkpoints", options.run)
    console.print("loading torch, and writing the policy ...")
    exporting = importlib.import_module("orchestrator.report.export")  # loads torch, so only after the checks
    path = exporting.export(run_dir, options.step, output, options.dtype)
    console.print(f"wrote {output}: the policy of {path}, in {options.dtype}", soft_wrap=True)
