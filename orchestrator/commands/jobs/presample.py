"""`breadth presample`: store answers of the reference policy for rehearsal."""

import argparse
import asyncio
from pathlib import Path

from rich.console import Console

from orchestrator.commands.hub import fetched
from orchestrator.commands.options import config, line_printer, load_modules
from orchestrator.preflight.machine import check_writable
from orchestrator.preflight.named import check_presampling


def run(options: argparse.Namespace, console: Console) -> None:
    """Presample into the parquet file `rehearsal.path`."""
    cfg = config(options)
    if not cfg.rehearsal.path:
        raise ValueError("rehearsal.path: must be the path of the parquet file to write, got ''")
    cfg = fetched(cfg, line_printer(console))
    check_presampling(cfg)
    check_writable(Path(cfg.rehearsal.path).parent, "rehearsal.path", cfg.rehearsal.path)
    with console.status("presample") as status:
        [presampling] = load_modules(cfg, "orchestrator.stored.presample")  # loads torch, so only after the checks
        tally = asyncio.run(
            presampling.presample(
                cfg, Path(cfg.rehearsal.path), lambda done, total: status.update(f"{done}/{total} prompts")
            )
        )
    console.print(f"{tally}\nwrote {cfg.rehearsal.path}", soft_wrap=True)
