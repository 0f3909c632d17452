"""`breadth warm-start`: train a small policy from scratch on a task's own solutions."""

import argparse
import importlib
from pathlib import Path

from rich.console import Console

from orchestrator.commands.options import config
from orchestrator.preflight.machine import check_writable
from orchestrator.preflight.named import check_new_policy, check_task


def run(options: argparse.Namespace, console: Console) -> None:
    """Train a policy and write it to `warm_start.output`."""
    cfg = config(options)
    check_new_policy(cfg.warm_start.output)
    check_task(cfg)
    check_writable(Path(cfg.warm_start.output).parent, "warm_start.output", cfg.warm_start.output)
    training = importlib.import_module("orchestrator.warm_start")  # loads torch, so only after the checks
    with console.status("warm start") as status:
        training.warm_start(
            cfg,
            Path(cfg.warm_start.output),
            lambda step, loss: status.update(
                f"step {step}/{cfg.warm_start.steps}  {cfg.warm_start.divergence} {loss:.4f} per token"
            ),
        )
    console.print(f"wrote {cfg.warm_start.output}")
