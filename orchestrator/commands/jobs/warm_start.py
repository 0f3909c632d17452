"""`breadth warm-start`: train a small policy from scratch on a task's own solutions."""

import argparse
import importlib
from pathlib import Path

from rich.console import Console

from configs.config import Config
from orchestrator.commands.options import config
from orchestrator.console.choice import open_screen
from orchestrator.console.screen import Screen
from orchestrator.preflight.machine import check_writable
from orchestrator.preflight.named import check_new_policy, check_task


def run(options: argparse.Namespace, console: Console) -> None:
    """Train a policy and write it to `warm_start.output`."""
    with open_screen(json=options.json, stderr=True) as screen:
        _warm_start(config(options), screen)


def _warm_start(cfg: Config, screen: Screen) -> None:
    check_new_policy(cfg.warm_start.output)
    check_task(cfg)
    check_writable(Path(cfg.warm_start.output).parent, "warm_start.output", cfg.warm_start.output)
    with screen.phase("loading torch and transformers", "loaded torch and transformers"):
        training = importlib.import_module("orchestrator.warm_start")  # only after the checks
    with screen.phase("training on right answers", "trained on right answers", of="steps") as phase:

        def progress(step: int, loss: float) -> None:
            phase.details = [f"{cfg.warm_start.divergence} {loss:.4f} per token"]
            screen.progress(phase, step, cfg.warm_start.steps)

        training.warm_start(cfg, Path(cfg.warm_start.output), progress)
    screen(f"wrote {cfg.warm_start.output}")
