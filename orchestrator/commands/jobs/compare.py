"""`breadth compare`: train five methods from the same policy, then evaluate all policies in the same way."""

import argparse
import asyncio
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from configs.checks import require
from configs.config import Config
from configs.load import load
from orchestrator.commands.hub import pinned
from orchestrator.commands.options import load_modules
from orchestrator.commands.paths import absolute

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
    # These load torch and Ray, so only after the settings are checked.
    names = ("stored.presample", "start", "evaluation.job", "report.write", "report.terminal")
    presampling, start, job, writing, terminal = load_modules(configs["grpo"], *(f"orchestrator.{n}" for n in names))
    log = console.print
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}")
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("presample: reference answers for DPH")
        tally = await presampling.presample(
            configs["dph_f"], rehearsal, lambda done, total: bar.update(task, completed=done, total=total)
        )
    log(f"presample: {tally}", soft_wrap=True)
    policies = {"base": configs["grpo"].policy.path} | {
        method: str(output / method / "checkpoints" / f"step-{cfg.steps:06d}" / "policy")
        for method, cfg in configs.items()
    }
    for method, cfg in configs.items():
        log(f"\n[bold]{method}[/bold]: {cfg.steps} steps")
        await start.run_training(cfg, resume=False, log=log)
        if not Path(policies[method]).is_dir():
            log(f"{method} stopped before its last step, so there is no evaluation")
            return
    cfg = configs["grpo"]
    evaluation, *_ = await job.evaluate(cfg, policies, log, output / "evaluation")
    shutil.copy(output / "evaluation" / "results.json", output / "results.json")
    report = writing.write_report(
        output / "report.html",
        runs={method: output / method for method in METHODS},
        evaluation=evaluation,
        title="Five methods on Countdown, on a CPU",
    )
    terminal.print_evaluation(evaluation, console)
    log(f"report  {report}\nresults {output / 'results.json'}", soft_wrap=True)


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
