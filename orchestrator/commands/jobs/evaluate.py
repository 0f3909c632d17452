"""`breadth evaluate`: measure Pass@k of a run, or of any policies, on the held-out prompts of one task."""

import argparse
import asyncio
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from actors.loading import collector_paused
from configs.config import Config
from configs.load import load
from orchestrator.commands.options import config
from orchestrator.commands.paths import absolute
from orchestrator.console.choice import open_screen
from orchestrator.console.libraries import logs_kept
from orchestrator.evaluation.folders import check_name
from orchestrator.evaluation.record import check_records, find_run, settings_of, split_run
from orchestrator.preflight.named import check_evaluation


def run(options: argparse.Namespace, console: Console) -> None:
    """Evaluate a run, or `evaluate.checkpoints`, and print the tables of results."""
    with open_screen(json=options.json, stderr=True) as screen, logs_kept(screen):
        cfg, run_dir, words = _settings(options)
        check_evaluation(cfg, run_dir)
        check_name(Path(cfg.runs) / cfg.name, cfg.evaluate.name)
        # They load torch and Ray, which takes seconds, so they are imported after what can be checked without them.
        with screen.phase("loading torch and transformers", "loaded torch and transformers"), collector_paused():
            policies = importlib.import_module("orchestrator.evaluation.policies")
            job = importlib.import_module("orchestrator.evaluation.job")
            terminal = importlib.import_module("orchestrator.report.terminal")
        checkpoints = policies.named_policies(cfg, run_dir, screen)
        check_records(cfg, checkpoints, words)
        evaluations = asyncio.run(job.evaluate(cfg, checkpoints, screen))
        for evaluation in evaluations:
            for values in _values(evaluation):
                screen.event("evaluation", values)
    for evaluation in [] if options.json else evaluations:
        terminal.print_evaluation(evaluation, Console())


def _values(evaluation: Any) -> Iterator[dict[str, Any]]:
    """Yield the values of an evaluation with their intervals, one policy at one temperature at a time."""
    for name, by_temperature in evaluation.summaries.items():
        for temperature, summary in by_temperature.items():
            values = {"sampling": evaluation.about["sampling"], "policy": name, "temperature": temperature}
            for metric, interval in summary.items():
                values |= {metric: interval.value, f"{metric}/low": interval.low, f"{metric}/high": interval.high}
            yield values


def _settings(options: argparse.Namespace) -> tuple[Config, Path | None, Sequence[str]]:
    """Return the settings with absolute paths, the run they are read from, and the words that change them."""
    named, words = split_run(options.overrides)
    if not named:
        return config(options), None, words
    if options.config:
        raise ValueError(f"--config: must be left out for a run, whose config.yaml is read, got {options.config!r}")
    places = absolute(load([word for word in words if word.startswith("runs=")])).runs
    words = [word for word in words if not word.startswith("runs=")]
    run_dir = find_run(named, places)
    return absolute(settings_of(run_dir, words)), run_dir, words
