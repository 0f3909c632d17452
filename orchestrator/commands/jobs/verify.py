"""`breadth verify`: grade or audit a file of answers, judge the answers of a run again, or test a task's verifier.

Loads neither torch nor Ray.
"""

import argparse
import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from configs.config import Config
from configs.load import load
from orchestrator.audit import Audit
from orchestrator.commands.paths import absolute
from orchestrator.console.choice import open_screen
from orchestrator.verify_file import Row, grade_rows, named_verifiers, output_row, whole_file
from rewards.judge import Judge
from rewards.registry import check
from rewards.verdict import STATUSES, Verdict
from tasks.options import settings_named
from tasks.registry import build
from trajectories.trajectory import Prompt

Tell = Callable[[str, Mapping[str, Any]], None]
"""Writes an event with its values, with --json."""
SHOWN = 20
"""Lines printed at most: of right answers that are not judged correct, and of rows whose verdict differs."""


def run(options: argparse.Namespace, console: Console) -> int:
    """Run the command and return its exit status.

    1: the grader is broken, a task's own right answer is not judged correct, or a problem is faulty. Else 0, also if
    verdicts differ from the recorded ones.
    """
    named = [f"task.name={options.task}"] if options.task else []
    with settings_named("--task", "task.options"):
        cfg = absolute(load([*named, *options.overrides]))
    judging = _judge_task if options.task else _judge_file
    try:
        if not options.json:
            return asyncio.run(judging(options, cfg, console, lambda event, values: None))
        with open_screen(json=True) as screen:
            return asyncio.run(judging(options, cfg, console, screen.event))
    except RuntimeError as error:  # A canary got a wrong verdict.
        console.print(f"[red]breadth:[/red] {escape(str(error))}", soft_wrap=True)
        return 1


@dataclass
class Tally:
    """Counts over the graded rows."""

    statuses: Counter[str] = field(default_factory=Counter)
    recorded: int = 0
    """Rows with a recorded verdict."""
    changed: int = 0
    """Rows whose verdict differs from the recorded one."""
    lines: list[str] = field(default_factory=list)
    """Descriptions of the first SHOWN of them."""

    def add(self, row: Row, verdict: Verdict) -> None:
        """Count one row."""
        self.statuses[verdict.status] += 1
        if row.recorded is None:
            return
        self.recorded += 1
        if row.recorded.differs(verdict):
            self.changed += 1
            if self.changed <= SHOWN:
                old, new = row.recorded, verdict
                change = f"{old.status} {old.reward} -> {new.status} {new.reward}"
                self.lines.append(f"line {row.number}, {row.id!r}: {change} ({verdict.reason})")


async def _judge_file(options: argparse.Namespace, cfg: Config, console: Console, tell: Tell) -> int:
    source, target = _files(options)
    if options.verifier is None:
        verifiers = named_verifiers(source)
    else:
        check(options.verifier, "--verifier")
        verifiers = [options.verifier]
    if options.compare is not None:
        check(options.compare, "--compare")
        verifiers = list(dict.fromkeys([*verifiers, options.compare]))
    audit = Audit(labels=options.audit, compare=options.compare or "") if _audits(options) else None
    tally = Tally()
    started = time.monotonic()
    columns = (
        TextColumn("{task.fields[rows]:,} rows"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )

    async def work(judge: Judge) -> None:
        with Progress(*columns, console=console, expand=True) as progress, whole_file(target) as output:
            bar = progress.add_task("verify", total=source.stat().st_size, rows=0)
            async with contextlib.aclosing(grade_rows(judge, source, options.verifier, options.compare)) as graded:
                async for row, verdicts in graded:
                    more = audit.add(row, verdicts) if audit else {}
                    if output is not None:
                        output.write(output_row(row, verdicts[0], more))
                    tally.add(row, verdicts[0])
                    progress.update(bar, advance=row.size, rows=tally.statuses.total())
            progress.update(bar, completed=source.stat().st_size)  # Blank lines are not rows.

    await _with_judge(options, cfg, verifiers, work)
    seconds = time.monotonic() - started
    counts = {"rows": tally.statuses.total(), "statuses": dict(tally.statuses), "seconds": seconds}
    counts |= {"recorded": tally.recorded, "changed": tally.changed}
    tell("verified", counts | (audit.counts() if audit else {}))
    console.print(_summary(tally.statuses, seconds))
    if tally.recorded:
        console.print(f"{tally.changed:,} of {tally.recorded:,} rows get another verdict than the recorded one")
        for line in tally.lines:
            tell("line", {"text": line})
            console.print(escape(line), soft_wrap=True)
    if audit is not None:
        for line in audit.lines():
            console.print(escape(line), soft_wrap=True)
        for block in audit.blocks():
            console.print(block)
    if target is not None:
        console.print(f"wrote {escape(str(target))}", soft_wrap=True)
    return 0


def _audits(options: argparse.Namespace) -> bool:
    return bool(options.audit or options.compare)


def _files(options: argparse.Namespace) -> tuple[Path, Path | None]:
    """Return the input and the output file. Raises ValueError if an option is missing or cannot be used."""
    if options.input is None:
        raise ValueError("--input: must name a jsonl file, got nothing")
    if options.output is None and options.verifier is not None and not _audits(options):
        raise ValueError("--output: must name a jsonl file, got nothing")
    source, target = options.input, options.output
    if not source.is_file():
        raise ValueError(f"--input: must be an existing file, got {str(source)!r}")
    if target is not None and (target.is_dir() or not target.absolute().parent.is_dir()):
        raise ValueError(f"--output: must be a file in an existing directory, got {str(target)!r}")
    if target is not None and target.exists() and target.samefile(source):
        raise ValueError(f"--output: must be another file than --input, which it would replace, got {str(target)!r}")
    if options.compare is not None and options.compare == options.verifier:
        raise ValueError(f"--compare: must be another verifier than --verifier, got {options.compare!r}")
    if options.overrides:
        raise ValueError(f"override: must be used with --task, got {options.overrides[0]!r}")
    return source, target


async def _judge_task(options: argparse.Namespace, cfg: Config, console: Console, tell: Tell) -> int:
    if _audits(options):
        name, given = ("--audit", True) if options.audit else ("--compare", options.compare)
        raise ValueError(f"{name}: must be used with --input, not with --task, got {given!r}")
    if options.count < 1:
        raise ValueError(f"--count: must be positive, got {options.count}")
    with settings_named("--task", "task.options"):
        source = build(cfg.task, cfg.seed)
    pairs: dict[str, tuple[Prompt, str]] = {}
    for position in range(options.count):
        prompt, answer = source.demonstration(position)
        pairs.setdefault(prompt.id, (prompt, answer))  # A finite dataset repeats its prompts.
    verdicts: list[Verdict] = []
    faults: list[str] = []

    async def work(judge: Judge) -> None:
        judging = (judge.judge(prompt.verifier, prompt.problem, answer) for prompt, answer in pairs.values())
        verdicts.extend(await asyncio.gather(*judging))
        checks = (judge.faults(prompt.verifier, prompt.problem) for prompt, _ in pairs.values())
        faults.extend(await asyncio.gather(*checks))

    verifiers = sorted({prompt.verifier for prompt, _ in pairs.values()})
    for name in verifiers:
        check(name)
    await _with_judge(options, cfg, verifiers, work)
    refused = [
        (prompt, answer, verdict)
        for (prompt, answer), verdict in zip(pairs.values(), verdicts, strict=True)
        if verdict.status != "correct"
    ]
    lines = [f"{prompt.id}: {v.status} ({v.reason}), answer {answer[:200]!r}" for prompt, answer, v in refused]
    faulty = [f"{prompt.id}: {fault}" for (prompt, _), fault in zip(pairs.values(), faults, strict=True) if fault]
    statuses = dict(Counter(verdict.status for verdict in verdicts))
    tell("verified", {"task": options.task, "rows": len(verdicts), "statuses": statuses, "faulty": len(faulty)})
    for line in [*lines[:SHOWN], *faulty[:SHOWN]]:
        tell("line", {"text": line})
        console.print(escape(line), soft_wrap=True)
    right = len(verdicts) - len(refused)
    console.print(f"{right} of {len(verdicts)} right answers of {options.task} are judged correct", soft_wrap=True)
    if faulty:
        console.print(f"{len(faulty)} problems of {options.task} are faulty", soft_wrap=True)
    return 1 if refused or faulty else 0


async def _with_judge(
    options: argparse.Namespace, cfg: Config, verifiers: list[str], work: Callable[[Judge], Awaitable[None]]
) -> None:
    """Judge the canaries of the verifiers, run `work`, and close the judge in any case.

    Raises ValueError on bad options.
    """
    workers = 0 if options.workers is None else options.workers
    timeout_s = cfg.grader.timeout_s if options.timeout_s is None else options.timeout_s
    require = cfg.sandbox.require if options.require is None else options.require
    if workers < 0 or options.workers == 0:
        raise ValueError(f"--workers: must be positive, got {workers}")
    if not 0 < timeout_s < float("inf"):
        raise ValueError(f"--timeout-s: must be positive, got {timeout_s}")
    judge = Judge(
        workers,
        timeout_s,
        first_call_timeout_s=cfg.grader.first_call_timeout_s,
        canary_every_s=cfg.grader.canary_every_s,
        require=require,
    )
    try:
        await judge.prove(verifiers)
        await work(judge)
    finally:
        await judge.close()


def _summary(statuses: Counter[str], seconds: float) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left")
    table.add_column("status")
    table.add_column("rows", justify="right")
    table.add_column("fraction", justify="right")
    total = statuses.total()
    for status in (status for status in STATUSES if statuses[status]):
        table.add_row(status, f"{statuses[status]:,}", f"{statuses[status] / total:.1%}")
    table.add_row("all", f"{total:,}", f"{total / max(seconds, 1e-9):,.0f}/s")
    return table
