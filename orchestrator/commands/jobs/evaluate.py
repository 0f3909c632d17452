"""`breadth evaluate`: measure Pass@k of a run, or of any policies, on the held-out prompts of one task."""

import argparse
import asyncio
import importlib
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from actors.loading import collector_paused
from configs.checks import require
from configs.config import Config
from configs.load import load
from orchestrator.commands.options import config, line_printer
from orchestrator.commands.paths import absolute
from orchestrator.evaluation.folders import check_name
from orchestrator.evaluation.record import check_records, find_run, settings_of, split_run
from orchestrator.preflight.named import check_evaluation

WATCH = "evaluate.watch="
"""Beginning of the word that names the run to watch."""


def run(options: argparse.Namespace, console: Console) -> None:
    """Evaluate a run, or `evaluate.checkpoints`, and print the tables of results."""
    log = line_printer(console)
    cfg, run_dir, words = _settings(options)
    check_evaluation(cfg, run_dir)
    check_name(Path(cfg.runs) / cfg.name, cfg.evaluate.name)
    # They load torch and Ray, which takes seconds, so they are imported after what can be checked without them.
    with collector_paused():
        policies = importlib.import_module("orchestrator.evaluation.policies")
        job = importlib.import_module("orchestrator.evaluation.job")
        following = importlib.import_module("orchestrator.evaluation.following")
        terminal = importlib.import_module("orchestrator.report.terminal")
    if cfg.evaluate.watch:
        assert run_dir is not None
        written = asyncio.run(following.follow(cfg, run_dir, log))
    else:
        checkpoints = policies.named_policies(cfg, run_dir, log)
        check_records(cfg, checkpoints, words)
        written = asyncio.run(job.evaluate(cfg, checkpoints, log))
    for evaluation in written:
        terminal.print_evaluation(evaluation, Console())


def _settings(options: argparse.Namespace) -> tuple[Config, Path | None, Sequence[str]]:
    """Return the settings with absolute paths, the run they are read from, and the words that change them."""
    named, words = split_run(options.overrides)
    watched = [word.removeprefix(WATCH) for word in words if word.startswith(WATCH)]
    require(not (watched and named), "evaluate.watch", f"must be left out for the run {named!r}", watched)
    named = "".join(watched[-1:]) or named
    if not named:
        cfg = config(options)
        require(not cfg.evaluate.watch, "evaluate.watch", "must be on the command line", cfg.evaluate.watch)
        return cfg, None, words
    if options.config:
        raise ValueError(f"--config: must be left out for a run, whose config.yaml is read, got {options.config!r}")
    places = absolute(load([word for word in words if word.startswith("runs=")])).runs
    words = [word for word in words if not word.startswith("runs=")]
    run_dir = find_run(named, places)
    return absolute(settings_of(run_dir, words)), run_dir, words
