"""What each `breadth` command does, once its words are parsed."""

import argparse
import asyncio
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from configs.load import load, presets, to_yaml
from configs.schema import Config
from orchestrator.demo import demo as run_demo
from orchestrator.evaluate import evaluate as run_evaluation
from orchestrator.evaluate import named_checkpoints, summaries
from orchestrator.paths import absolute
from orchestrator.plan import plan
from orchestrator.presample import presample as run_presample
from orchestrator.report import write_report
from orchestrator.report_inputs import read_evaluation, results_table, runs_in
from orchestrator.train import run_training
from orchestrator.warm_start import warm_start as run_warm_start


def _config(options: argparse.Namespace) -> Config:
    return absolute(load(options.overrides, options.config))


def train(options: argparse.Namespace, console: Console) -> None:
    file = options.config
    if options.resume and file is None:
        first = absolute(load(options.overrides))
        file = str(Path(first.runs) / first.name / "config.yaml")
        if not Path(file).is_file():
            raise ValueError(f"name: must be an existing run to resume, got {str(Path(file).parent)!r}")
    cfg = absolute(load(options.overrides, file))
    say = _sayer(console)
    say(f"run directory {Path(cfg.runs) / cfg.name}")
    asyncio.run(run_training(cfg, resume=options.resume, say=say))


def warm_start(options: argparse.Namespace, console: Console) -> None:
    cfg = _config(options)
    if not cfg.warm_start.output:
        raise ValueError("warm_start.output: must name the directory to write, got ''")
    with console.status("warm start") as status:
        run_warm_start(
            cfg,
            Path(cfg.warm_start.output),
            lambda step, loss: status.update(
                f"step {step}/{cfg.warm_start.steps}  {cfg.warm_start.divergence} {loss:.4f} per token"
            ),
        )
    console.print(f"wrote {cfg.warm_start.output}")


def presample(options: argparse.Namespace, console: Console) -> None:
    cfg = _config(options)
    if not cfg.rehearsal.path:
        raise ValueError("rehearsal.path: must name the parquet file to write, got ''")
    with console.status("presample") as status:
        tally = asyncio.run(
            run_presample(cfg, Path(cfg.rehearsal.path), lambda done, total: status.update(f"{done}/{total} prompts"))
        )
    console.print(f"{tally}\nwrote {cfg.rehearsal.path}", soft_wrap=True)


def evaluate(options: argparse.Namespace, console: Console) -> None:
    cfg = _config(options)
    measurements = asyncio.run(run_evaluation(cfg, named_checkpoints(cfg), _sayer(console)))
    Console().print(results_table(summaries(measurements, cfg.evaluate.ks)))


def report(options: argparse.Namespace, console: Console) -> None:
    runs = runs_in(options.runs)
    measurements, base, ks = read_evaluation(options.evaluation) if options.evaluation else ({}, "", [1])
    page = write_report(options.output, runs=runs, measurements=measurements, base=base, ks=ks, title="Breadth report")
    console.print(f"wrote {page}", soft_wrap=True)


def show_config(options: argparse.Namespace, console: Console) -> None:
    cfg = _config(options)
    out = Console(highlight=False)
    out.print(escape(to_yaml(cfg)), soft_wrap=True)
    for name, line in plan(cfg).items():
        out.print(f"# {name}: {escape(line)}", soft_wrap=True)
    out.print(f"# methods: {', '.join(presets('method'))}\n# scales: {', '.join(presets('scale'))}", soft_wrap=True)


def demo(options: argparse.Namespace, console: Console) -> None:
    asyncio.run(run_demo(options.output, options.overrides, Console()))


def _sayer(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(escape(text), soft_wrap=True)
