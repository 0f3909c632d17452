"""`breadth evaluate`: measure Pass@k of a run, or of any policies, on the held-out prompts of one task."""

import argparse
import asyncio
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from actors.loading import collector_paused
from configs.checks import require
from configs.config import Config
from configs.load import load
from orchestrator.commands.hub import fetched
from orchestrator.commands.options import config, line_printer
from orchestrator.commands.paths import absolute, split_name
from orchestrator.console.choice import open_screen
from orchestrator.console.libraries import logs_kept
from orchestrator.evaluation.folders import EVALUATIONS, check_name
from orchestrator.evaluation.record import check_records, find_run, settings_of, split_run
from orchestrator.preflight.machine import check_cluster
from orchestrator.preflight.named import check_evaluation
from orchestrator.remote_runs.place import is_url
from orchestrator.remote_runs.place import split_run as split_run_url

WATCH = "evaluate.watch="
"""Beginning of the word that names the run to watch."""


def run(options: argparse.Namespace, console: Console) -> None:
    """Evaluate a run, or `evaluate.checkpoints`, and print the tables of results."""
    with open_screen(json=options.json, stderr=True) as screen, logs_kept(screen):
        cfg, run_dir, words = _settings(options, screen)
        check_cluster(cfg)
        cfg = fetched(cfg, screen)
        check_evaluation(cfg, run_dir)
        check_name(Path(cfg.runs) / cfg.name, cfg.evaluate.name)
        # They load torch and Ray, which takes seconds, so they are imported after what can be checked without them.
        with screen.phase("loading torch and transformers", "loaded torch and transformers"), collector_paused():
            policies = importlib.import_module("orchestrator.evaluation.policies")
            job = importlib.import_module("orchestrator.evaluation.job")
            following = importlib.import_module("orchestrator.evaluation.following")
            terminal = importlib.import_module("orchestrator.report.terminal")
        if cfg.evaluate.watch:
            assert run_dir is not None
            evaluations = asyncio.run(following.follow(cfg, run_dir, screen))
        else:
            checkpoints = policies.named_policies(cfg, run_dir, screen)
            check_records(cfg, checkpoints, words)
            evaluations = asyncio.run(job.evaluate(cfg, checkpoints, screen))
        for evaluation in evaluations:
            for values in _values(evaluation):
                screen.event("evaluation", values)
    for evaluation in [] if options.json else evaluations:
        terminal.print_evaluation(evaluation, Console())
    if cfg.mirror:
        url = f"{cfg.mirror}/{cfg.name}"
        copying = importlib.import_module("orchestrator.remote_runs.mirror")
        copying.copy_now(Path(cfg.runs) / cfg.name, url, (EVALUATIONS,), line_printer(console))


def _values(evaluation: Any) -> Iterator[dict[str, Any]]:
    """Yield the values of an evaluation with their intervals, one policy at one temperature at a time."""
    for name, by_temperature in evaluation.summaries.items():
        for temperature, summary in by_temperature.items():
            values = {"sampling": evaluation.about["sampling"], "policy": name, "temperature": temperature}
            for metric, interval in summary.items():
                values |= {metric: interval.value, f"{metric}/low": interval.low, f"{metric}/high": interval.high}
            yield values


def _settings(options: argparse.Namespace, log: Callable[[str], None]) -> tuple[Config, Path | None, Sequence[str]]:
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
    places = absolute(load([word for word in words if word.startswith("runs=")]))
    words = [word for word in words if not word.startswith("runs=")]
    if places.mirror and not is_url(named):
        named = f"{places.mirror}/{named}"
    if is_url(named):
        cfg, run_dir = _remote(named, words, log)
        return cfg, run_dir, words
    run_dir = find_run(named, places.runs)
    return absolute(settings_of(run_dir, words)), run_dir, words


def _remote(url: str, words: Sequence[str], log: Callable[[str], None]) -> tuple[Config, Path]:
    """Fetch a remote run and its checkpoints that are measured. Return its settings and its local directory."""
    fetching = importlib.import_module("orchestrator.remote_runs.fetch")
    run_dir: Path = fetching.fetch_run(url, log, setting="run")
    cfg = absolute(settings_of(run_dir, words))
    if cfg.evaluate.watch:  # which fetches each checkpoint as it comes
        cfg = replace(cfg, evaluate=replace(cfg.evaluate, watch=url))
    for item in [] if cfg.evaluate.watch else cfg.evaluate.checkpoints or ["last"]:
        which = split_name(item)[1]
        if "/" not in which:
            fetching.fetch_run(url, log, checkpoint=which, setting="evaluate.checkpoints")
    return replace(cfg, mirror=split_run_url(url)[0]), run_dir
