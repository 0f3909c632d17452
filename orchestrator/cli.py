"""The `breadth` command."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from configs.load import load, presets, to_yaml
from configs.schema import Config
from orchestrator.demo import demo
from orchestrator.evaluate import evaluate, named_checkpoints, summaries
from orchestrator.paths import absolute
from orchestrator.plan import plan
from orchestrator.presample import presample
from orchestrator.report import write_report
from orchestrator.report_inputs import read_evaluation, results_table, runs_in
from orchestrator.train import run_training
from orchestrator.warm_start import warm_start

OVERRIDES = "key=value settings; method=NAME and scale=NAME choose presets (see `breadth show-config`)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for a failure, 2 for bad settings, 130 when interrupted."""
    options = parser().parse_args(arguments)
    console = Console(stderr=options.command != "show-config", highlight=False)
    # One thread per process: on small machines two busy OpenMP threads can be 20 times slower than one.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        options.run(options, console)
    except ValueError as error:
        console.print(f"[red]breadth:[/red] {escape(str(error))}", soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("breadth: interrupted")
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="breadth", description="RLVR whose Pass@1 rises while its Pass@k does not fall.")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, run: object, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    def configured(name: str, run: object, text: str) -> argparse.ArgumentParser:
        sub = command(name, run, text)
        sub.add_argument("--config", metavar="FILE", help="YAML file with settings, under the overrides")
        sub.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)
        return sub

    sub = configured("train", _train, "Train a policy.")
    sub.add_argument("--resume", action="store_true", help="continue the run `name` from its last whole checkpoint")
    configured("warm-start", _warm_start, "Make a small policy by supervised training on a task's own solutions.")
    configured("presample", _presample, "Store correct answers of the reference policy for rehearsal (DPH-RL).")
    configured("evaluate", _evaluate, "Measure Pass@k of one or more policies on the held-out prompts.")
    configured(
        "show-config", _show_config, "Print the resolved settings and what they mean, without starting anything."
    )
    sub = command("report", _report, "Write plots and one self-contained HTML page about runs and an evaluation.")
    sub.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run directories")
    sub.add_argument("--evaluation", type=Path, metavar="DIR", help="output directory of `breadth evaluate`")
    sub.add_argument("--output", type=Path, default=Path("runs/report.html"), metavar="FILE")
    sub = command("demo", _demo, "GRPO against DPH-F and DPH-JS from the same policy, on this machine, in minutes.")
    sub.add_argument("--output", type=Path, default=Path("runs/demo"), metavar="DIR")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="settings of all three runs")
    return top


def _config(options: argparse.Namespace) -> Config:
    return absolute(load(options.overrides, options.config))


def _train(options: argparse.Namespace, console: Console) -> None:
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


def _warm_start(options: argparse.Namespace, console: Console) -> None:
    cfg = _config(options)
    if not cfg.warm_start.output:
        raise ValueError("warm_start.output: must name the directory to write, got ''")
    with console.status("warm start") as status:
        warm_start(
            cfg,
            Path(cfg.warm_start.output),
            lambda step, loss: status.update(
                f"step {step}/{cfg.warm_start.steps}  cross entropy {loss:.4f} nats per token"
            ),
        )
    console.print(f"wrote {cfg.warm_start.output}")


def _presample(options: argparse.Namespace, console: Console) -> None:
    cfg = _config(options)
    if not cfg.rehearsal.path:
        raise ValueError("rehearsal.path: must name the parquet file to write, got ''")
    with console.status("presample") as status:
        tally = asyncio.run(
            presample(cfg, Path(cfg.rehearsal.path), lambda done, total: status.update(f"{done}/{total} prompts"))
        )
    console.print(f"{tally}\nwrote {cfg.rehearsal.path}", soft_wrap=True)


def _evaluate(options: argparse.Namespace, console: Console) -> None:
    cfg = _config(options)
    measurements = asyncio.run(evaluate(cfg, named_checkpoints(cfg), _sayer(console)))
    Console().print(results_table(summaries(measurements, cfg.evaluate.ks)))


def _report(options: argparse.Namespace, console: Console) -> None:
    runs = runs_in(options.runs)
    measurements, base, ks = read_evaluation(options.evaluation) if options.evaluation else ({}, "", [1])
    page = write_report(options.output, runs=runs, measurements=measurements, base=base, ks=ks, title="Breadth report")
    console.print(f"wrote {page}", soft_wrap=True)


def _show_config(options: argparse.Namespace, console: Console) -> None:
    cfg = _config(options)
    console.print(escape(to_yaml(cfg)), soft_wrap=True)
    for name, line in plan(cfg).items():
        console.print(f"# {name}: {escape(line)}", soft_wrap=True)
    console.print(f"# methods: {', '.join(presets('method'))}\n# scales: {', '.join(presets('scale'))}", soft_wrap=True)


def _demo(options: argparse.Namespace, console: Console) -> None:
    asyncio.run(demo(options.output, options.overrides, Console()))


def _sayer(console: Console):  # type: ignore[no-untyped-def]
    return lambda text: console.print(escape(text), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
