"""`breadth presample`: store answers of the reference policy for rehearsal."""

import argparse
import asyncio
import functools
from pathlib import Path

from rich.console import Console

from configs.config import Config
from orchestrator.commands.hub import fetched
from orchestrator.commands.options import config, load_modules
from orchestrator.console.choice import open_screen
from orchestrator.console.screen import Screen
from orchestrator.preflight.machine import check_cluster, check_writable
from orchestrator.preflight.named import check_presampling


def run(options: argparse.Namespace, console: Console) -> None:
    """Presample into the parquet file `rehearsal.path`."""
    with open_screen(json=options.json, stderr=True) as screen:
        _presample(config(options), screen)


def _presample(cfg: Config, screen: Screen) -> None:
    if not cfg.rehearsal.path:
        raise ValueError("rehearsal.path: must be the path of the parquet file to write, got ''")
    check_cluster(cfg)
    cfg = fetched(cfg, screen)
    check_presampling(cfg)
    check_writable(Path(cfg.rehearsal.path).parent, "rehearsal.path", cfg.rehearsal.path)
    # It loads torch, so only after the checks.
    [presampling] = load_modules(cfg, "orchestrator.stored.presample", report=screen)
    with screen.phase("presampling the reference", "presampled the reference", of="prompts") as phase:
        progress = functools.partial(screen.progress, phase)
        tally = asyncio.run(presampling.presample(cfg, Path(cfg.rehearsal.path), progress, screen))
    screen(f"{tally}\nwrote {cfg.rehearsal.path}")
