"""`breadth export`: write the policy of a checkpoint as a Hugging Face directory with a model card."""

import argparse
import importlib

from rich.console import Console

from configs.checks import require
from orchestrator.manifest import SETTINGS


def run(options: argparse.Namespace, console: Console) -> None:
    """Export a policy of the run directory RUN to the path of `--output`."""
    is_run = (options.run / SETTINGS).is_file() and (options.run / "checkpoints").is_dir()
    require(is_run, "RUN", "must be a run directory with checkpoints", str(options.run))
    output = options.output
    new = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    require(new, "--output", "must be a new or empty directory", str(output))
    console.print("loading torch, and writing the policy ...")
    exporting = importlib.import_module("orchestrator.report.export")  # loads torch, so only after the checks
    path = exporting.export(options.run, options.step, output, options.dtype)
    console.print(f"wrote {output}: the policy of {path}, in {options.dtype}", soft_wrap=True)
