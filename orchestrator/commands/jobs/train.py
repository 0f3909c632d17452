"""`breadth train`: train a policy, or continue a run from its last complete checkpoint."""

import argparse
import asyncio
from pathlib import Path

from rich.console import Console

from configs.config import Config
from configs.load import load
from orchestrator.commands.options import load_modules
from orchestrator.commands.paths import absolute
from orchestrator.console.choice import open_screen
from orchestrator.console.libraries import logs_kept
from orchestrator.manifest import SETTINGS, saved
from orchestrator.preflight.beginning import check_beginning
from orchestrator.preflight.named import check_training
from orchestrator.preflight.resume import resume_command


def run(options: argparse.Namespace, console: Console) -> None:
    """Train with the settings of the command line. With `--resume` they change those of the run's config.yaml."""
    with open_screen(json=options.json) as screen, logs_kept(screen):
        cfg = _settings(options)
        run_dir = Path(cfg.runs) / cfg.name
        if not check_beginning(cfg, resume=options.resume, report=screen):
            return
        check_training(cfg)
        screen(f"run directory {run_dir}")
        try:
            # After what can be checked without it, as it loads torch and Ray, which takes seconds.
            [start] = load_modules(cfg, "orchestrator.start", report=screen)
            asyncio.run(start.train_run(cfg, resume=options.resume, log=screen))
        except BaseException as error:
            if saved(run_dir / "checkpoints"):
                error.add_note(f"To go on from the last checkpoint: {resume_command(cfg)}")
            raise


def _settings(options: argparse.Namespace) -> Config:
    """Return the settings, with absolute paths."""
    file = options.config
    if options.resume and file is None:
        # Only these: other overrides may be valid on top of the run's own settings alone.
        place = absolute(load([word for word in options.overrides if word.partition("=")[0] in ("runs", "name")]))
        file = str(Path(place.runs) / place.name / SETTINGS)
        if not Path(file).is_file():
            raise ValueError(f"name: must be an existing run to resume, got {str(Path(file).parent)!r}")
    return absolute(load(options.overrides, file))
