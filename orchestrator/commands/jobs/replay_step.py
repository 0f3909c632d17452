"""`breadth replay-step`: run a recorded update again, and compare it with what was recorded."""

import argparse
import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from configs.checks import require
from configs.config import Config
from configs.load import load
from orchestrator.commands.paths import absolute
from orchestrator.manifest import SETTINGS
from orchestrator.preflight.machine import check_devices

SHOWN = 15
"""Numbers that are printed: those that differ most."""


def run(options: argparse.Namespace, console: Console) -> int:
    """Run the update of FOLDER, print what differs most, and return 1 if a difference is beyond its limit."""
    folder = options.folder
    rule = "must be a step that a run recorded (logbook.dump_steps)"
    require((folder / SETTINGS).is_file(), "FOLDER", rule, str(folder))
    given = absolute(load([], str(folder / SETTINGS)))
    cfg = absolute(load(options.overrides, str(folder / SETTINGS)))
    check_devices(cfg)
    names = ("folder", "comparison", "job")  # They load torch, so only after the checks.
    files, comparison, job = (importlib.import_module(f"orchestrator.step_again.{name}") for name in names)
    recorded = files.read(folder)
    here = comparison.machine_of(cfg.placement.device, recorded.machine["threads"], ranks=1)
    reason = comparison.why_not_exact(recorded.machine, here, changed=_changed(given, cfg))
    found = job.run_again(folder, cfg, recorded)
    rows = comparison.differences(recorded, found, cfg.policy.dtype, exact=not reason)
    _print(rows, folder, recorded, reason)
    return int(any(not row.within for row in rows))


def _changed(given: Config, cfg: Config) -> bool:
    """Return whether what the update depends on is changed, besides the device, which `machine_of` compares."""
    there = replace(cfg, placement=given.placement)
    return there != given


def _print(rows: Any, folder: Path, recorded: Any, reason: str) -> None:
    out = Console(file=sys.stdout, highlight=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("value", overflow="fold")
    for name in ("recorded", "here", "difference", "limit"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows[:SHOWN]:
        style = "" if row.within else "red"
        numbers = (f"{row.recorded:.6g}", f"{row.found:.6g}", f"{row.size:.2g}", f"{row.limit:.2g}")
        table.add_row(row.name, *numbers, style=style)
    out.print(table)
    beyond = sum(not row.within for row in rows)
    metrics, tokens = len(rows) - len(recorded.scores), int(recorded.batch.mask.sum())
    what = f"step {recorded.step}: {metrics} metrics, and log-probs and entropies of {tokens:,} tokens"
    if reason:
        verdict = f"{beyond} values differ beyond their limits" if beyond else "all are within their limits"
        out.print(f"{what}: {verdict}. They need not be the same bit for bit: {reason}.", markup=False, soft_wrap=True)
    else:
        verdict = f"{beyond} values differ" if beyond else "all are the same"
        out.print(f"{what}: {verdict}, bit for bit.", markup=False, soft_wrap=True)
