"""`breadth compare`: train five methods from the same policy, then evaluate all policies in the same way."""

import argparse
import asyncio
import functools
import importlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from configs.checks import require
from configs.config import Config
from configs.load import load
from orchestrator.commands.hub import pinned
from orchestrator.commands.options import load_modules
from orchestrator.commands.paths import absolute
from orchestrator.console.choice import text_display
from orchestrator.console.libraries import logs_kept
from orchestrator.console.record import Record
from orchestrator.console.screen import Screen

PRESAMPLED = ("rehearsal.prompts=2048",)
METHODS: dict[str, tuple[str, ...]] = {
    "grpo": (),
    "grpo_nll": PRESAMPLED,
    "dph_f": PRESAMPLED,
    "dph_js": PRESAMPLED,
    "passk_training": ("objective.pass_k.k=8",),
}
"""Methods and the settings that differ from their presets: GRPO alone; with right stored answers as data; with the
forward KL and with the Jensen-Shannon divergence on the same answers; and an advantage that aims at Pass@k."""
BASE = "tasks/base_policies/unfinished_countdown"
STEPS = 60
SETTINGS = (
    f"policy.path={BASE}",
    f"steps={STEPS}",
    "lag=1",
    "generator.engine=vllm",
    "monitor.every=20",
    "monitor.answers=16",
    "monitor.ks=[1,4,16]",
    "monitor.kl_to_base=false",
    "checkpoint.every=0",
    "task.heldout_prompts=128",
    "evaluate.answers=128",
    "evaluate.ks=[1,4,16,64]",
    "evaluate.temperatures=[1.0,0.6]",
    "evaluate.frontier=[1.3,0.8,0.6,0.3,0.0]",
)


async def compare(output: Path, overrides: Sequence[str], console: Console) -> None:
    """Train and evaluate; write results.json and report.html to the folder `output`, and print a table."""
    output = output.absolute()
    rehearsal = output / "rehearsal.parquet"
    configs = {m: _config(m, output, rehearsal, overrides) for m in METHODS}
    clear(output)
    with Screen(text_display(console), Record()) as screen, logs_kept(screen):
        screen.start_ticking()
        evaluation = await _compare(output, rehearsal, configs, screen)
    if evaluation is not None:
        importlib.import_module("orchestrator.report.terminal").print_evaluation(evaluation, console)
        console.print(f"report  {output / 'report.html'}\nresults {output / 'results.json'}", soft_wrap=True)


async def _compare(output: Path, rehearsal: Path, configs: Mapping[str, Config], screen: Screen) -> Any:
    """Train and evaluate, write the files, and return the evaluation; None if a method did not finish."""
    screen(f"compare: {', '.join(METHODS)}, each from {BASE}, then all on the same held-out prompts")
    # These load torch and Ray, so only after the settings are checked.
    names = ("stored.presample", "start", "evaluation.job", "report.write", "report.terminal")
    modules = load_modules(configs["grpo"], *(f"orchestrator.{n}" for n in names), report=screen)
    presampling, start, job, writing, _ = modules
    with screen.phase("presampling the reference", "presampled the reference", of="prompts") as phase:
        progress = functools.partial(screen.progress, phase)
        tally = await presampling.presample(configs["dph_f"], rehearsal, progress, screen)
    screen(f"presample: {tally}")
    policies = {"base": configs["grpo"].policy.path} | {
        method: str(output / method / "checkpoints" / f"step-{cfg.steps:06d}" / "policy")
        for method, cfg in configs.items()
    }
    for method, cfg in configs.items():
        screen(f"\n{method}: {cfg.steps} steps")
        await start.run_training(cfg, resume=False, log=screen)
        if not Path(policies[method]).is_dir():
            screen(f"{method} stopped before its last step, so there is no evaluation")
            return None
    cfg = configs["grpo"]
    screen("\nevaluation")
    evaluation, *_ = await job.evaluate(cfg, policies, screen, output / "evaluation")
    shutil.copy(output / "evaluation" / "results.json", output / "results.json")
    writing.write_report(
        output / "report.html",
        runs={method: output / method for method in METHODS},
        evaluation=evaluation,
        title="Five methods on Countdown, on a CPU",
    )
    return evaluation


def clear(output: Path) -> None:
    """Remove the files of an earlier comparison from `output`, and no others."""
    for name in (*METHODS, "evaluation"):
        if (output / name).is_dir():
            shutil.rmtree(output / name)
    for pattern in ("rehearsal.parquet", "results.json", "report.html", "report-*.png"):
        for path in output.glob(pattern):
            path.unlink()


def _config(method: str, output: Path, rehearsal: Path, overrides: Sequence[str]) -> Config:
    settings = [
        f"method={method}",
        "scale=cpu",
        f"name={method}",
        f"runs={json.dumps(str(output))}",
        *SETTINGS,
        *METHODS[method],
    ]
    cfg = pinned(absolute(load([*settings, *overrides])))
    return replace(cfg, rehearsal=replace(cfg.rehearsal, path=str(rehearsal)))


def run(options: argparse.Namespace, console: Console) -> None:
    """Run the comparison and print its table to standard output."""
    for word in options.overrides:
        key, _, value = word.partition("=")
        rule = f"must be left out: the comparison trains {', '.join(METHODS)}, each under its own name"
        require(key not in ("method", "name", "runs"), key, rule, value)
    asyncio.run(compare(options.output, options.overrides, Console()))
