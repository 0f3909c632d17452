"""`breadth verify`: grades a file of answers, or holds a task's own right answers against its verifier.

Loads neither torch nor Ray.
"""

import argparse
import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from configs.config import Config
from configs.load import load
from orchestrator.commands.paths import absolute
from orchestrator.commands.verify_file import grade_file
from rewards.judge import Judge
from rewards.registry import check
from rewards.verdict import STATUSES, Verdict
from tasks.registry import build
from trajectories.trajectory import Prompt

SHOWN = 20
"""Right answers of a task judged not to be, that are listed."""


def run(options: argparse.Namespace, console: Console) -> int:
    """The command. Returns the exit status: 1 if the grader is broken, or a task's own right answer is judged wrong."""
    cfg = absolute(load([*([f"task.name={options.task}"] if options.task else []), *options.overrides]))
    try:
        return asyncio.run((_task if options.task else _file)(options, cfg, console))
    except RuntimeError as error:  # what the judge says of itself
        console.print(f"[red]breadth:[/red] {escape(str(error))}", soft_wrap=True)
        return 1


async def _file(options: argparse.Namespace, cfg: Config, console: Console) -> int:
    source, target = _files(options)
    check(options.verifier, "--verifier")
    tally: Counter[str] = Counter()
    started = time.monotonic()
    columns = (
        TextColumn("{task.fields[rows]:,} rows"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )

    async def work(judge: Judge) -> None:
        with Progress(*columns, console=console, expand=True) as progress:
            bar = progress.add_task("verify", total=source.stat().st_size, rows=0)

            def done(status: str, size: int) -> None:
                tally[status] += 1
                progress.update(bar, advance=size, rows=tally.total())

            await grade_file(judge, options.verifier, source, target, done)
            progress.update(bar, completed=source.stat().st_size)  # blank lines are no rows

    await _with_judge(options, cfg, [options.verifier], work)
    console.print(_summary(tally, time.monotonic() - started))
    console.print(f"wrote {escape(str(target))}", soft_wrap=True)
    return 0


def _files(options: argparse.Namespace) -> tuple[Path, Path]:
    for name in ("input", "output"):
        if getattr(options, name) is None:
            raise ValueError(f"--{name}: must name a jsonl file, got nothing")
    source, target = options.input, options.output
    if not source.is_file():
        raise ValueError(f"--input: must be an existing file, got {str(source)!r}")
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise ValueError(f"--output: must be a file in an existing directory, got {str(target)!r}")
    if options.overrides:
        raise ValueError(f"override: must stand with --task, got {options.overrides[0]!r}")
    return source, target


async def _task(options: argparse.Namespace, cfg: Config, console: Console) -> int:
    if options.count < 1:
        raise ValueError(f"--count: must be positive, got {options.count}")
    source = build(cfg.task, cfg.seed)
    pairs: dict[str, tuple[Prompt, str]] = {}
    for position in range(options.count):
        prompt, answer = source.demonstration(position)
        pairs.setdefault(prompt.id, (prompt, answer))  # a finite dataset comes round again
    verdicts: list[Verdict] = []

    async def work(judge: Judge) -> None:
        judging = (judge.judge(prompt.verifier, prompt.problem, answer) for prompt, answer in pairs.values())
        verdicts.extend(await asyncio.gather(*judging))

    verifiers = sorted({prompt.verifier for prompt, _ in pairs.values()})
    for name in verifiers:
        check(name)
    await _with_judge(options, cfg, verifiers, work)
    found = [
        (prompt, answer, verdict)
        for (prompt, answer), verdict in zip(pairs.values(), verdicts, strict=True)
        if verdict.status != "correct"
    ]
    for prompt, answer, verdict in found[:SHOWN]:
        line = f"{prompt.id}: {verdict.status} ({verdict.reason}), answer {answer[:200]!r}"
        console.print(escape(line), soft_wrap=True)
    right = len(verdicts) - len(found)
    console.print(f"{right} of {len(verdicts)} right answers of {options.task} are judged correct", soft_wrap=True)
    return 1 if found else 0


async def _with_judge(
    options: argparse.Namespace, cfg: Config, verifiers: list[str], work: Callable[[Judge], Awaitable[None]]
) -> None:
    """Have a proven judge do the work, and end it whatever happens. Raises ValueError on bad options."""
    workers = len(os.sched_getaffinity(0)) if options.workers is None else options.workers
    timeout_s = cfg.grader.timeout_s if options.timeout_s is None else options.timeout_s
    require = cfg.sandbox.require if options.require is None else options.require
    if workers < 1:
        raise ValueError(f"--workers: must be positive, got {workers}")
    if not 0 < timeout_s < float("inf"):
        raise ValueError(f"--timeout-s: must be positive, got {timeout_s}")
    judge = Judge(workers, timeout_s, canary_every_s=cfg.grader.canary_every_s, require=require)
    try:
        await judge.prove(verifiers)
        await work(judge)
    finally:
        await judge.close()


def _summary(tally: Counter[str], seconds: float) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left")
    table.add_column("status")
    table.add_column("rows", justify="right")
    table.add_column("share", justify="right")
    total = tally.total()
    for status in (status for status in STATUSES if tally[status]):
        table.add_row(status, f"{tally[status]:,}", f"{tally[status] / total:.1%}")
    table.add_row("all", f"{total:,}", f"{total / max(seconds, 1e-9):,.0f}/s")
    return table
