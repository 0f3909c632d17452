"""`breadth train`: train a policy, or continue a run from its last complete checkpoint."""

import argparse
import asyncio
import importlib
from pathlib import Path

from rich.console import Console

from configs.load import load
from orchestrator.commands.options import line_printer
from orchestrator.commands.paths import absolute
from orchestrator.preflight.named import check_training


def run(options: argparse.Namespace, console: Console) -> None:
    """Train with the settings of the command line. With `--resume` they change those of the run's config.yaml."""
    file = options.config
    if options.resume and file is None:
        # Only these: other overrides may be valid on top of the run's own settings alone.
        place = absolute(load([word for word in options.overrides if word.partition("=")[0] in ("runs", "name")]))
        file = str(Path(place.runs) / place.name / "config.yaml")
        if not Path(file).is_file():
            raise ValueError(f"name: must be an existing run to resume, got {str(Path(file).parent)!r}")
    cfg = absolute(load(options.overrides, file))
    check_training(cfg)
    log = line_printer(console)
    log(f"run directory {Path(cfg.runs) / cfg.name}")
    start = importlib.import_module("orchestrator.start")  # loads torch and Ray, so only after the checks
    asyncio.run(start.run_training(cfg, resume=options.resume, log=log))
