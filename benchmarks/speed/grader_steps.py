"""Measure what grading one step of 512 answers costs: verifiers that wait, an answer that never returns, and CPU time.

    python benchmarks/speed/grader_steps.py [--steps 3]

Everything has default settings, but a time limit of 2 s for the answer that never returns. A row has the first step of
a fresh grader, in which its workers start, and the median of the later ones.
"""

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from actors.contracts import GradeTask
from actors.grader import PooledGrader
from configs.task import TaskConfig
from rewards.arithmetic.countdown import verify
from rewards.sandbox.process_tree import descendants
from tasks.registry import build

PROMPTS, ANSWERS = 32, 16
WAIT_S = 0.05
SEQUENTIAL_CALLS = 20
"""Calls of the waiting verifier that are timed one after the other, for the time of PROMPTS * ANSWERS of them."""
LIMIT_S = 2.0
USER_VERIFIERS = f"""
import asyncio, time

def waits(answer, problem):
    time.sleep({WAIT_S})
    return 1.0

async def awaits(answer, problem):
    await asyncio.sleep({WAIT_S})
    return 1.0

def hangs(answer, problem):
    time.sleep(3600 if answer == "hang" else 0)
    return 1.0
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measure: the first step, the median of the later ones, and the same work without Breadth's graders."""

    name: str
    unit: str
    first: float
    later: float
    baseline: str
    baseline_value: float

    @property
    def ratio(self) -> float:
        """How many times less than the baseline a later step takes."""
        return self.baseline_value / self.later


def step_of(verifier: str, step: int, hang: bool = False) -> list[GradeTask]:
    """Return the answers of one step to a user verifier, no two of them equal."""
    answers = [f"{step}/{index}" for index in range(PROMPTS * ANSWERS)]
    if hang:
        answers[len(answers) // 3] = "hang"
    return [GradeTask(key=answer, verifier=verifier, problem={}, answer=answer) for answer in answers]


def countdown_step(step: int) -> list[GradeTask]:
    """Return the answers of one step of Countdown: a third right, the others expressions over some of the numbers."""
    source, luck, tasks = build(TaskConfig(name="countdown"), seed=0), random.Random(step), []
    for position in range(step * PROMPTS, (step + 1) * PROMPTS):
        prompt, right = source.demonstration(position)
        for index in range(ANSWERS):
            numbers = luck.sample(prompt.problem["numbers"], luck.randint(1, len(prompt.problem["numbers"])))
            wrong = "".join(f"{luck.choice('+-*')}{number}" for number in numbers)[1:]
            answer = right if luck.random() < 1 / 3 else wrong
            task = GradeTask(key=f"{position}#{index}", verifier="countdown", problem=prompt.problem, answer=answer)
            tasks.append(task)
    return tasks


async def seconds_of(steps: Sequence[Sequence[GradeTask]], timeout_s: float = 6.0) -> list[float]:
    """Return the wall seconds in which a fresh grader grades each step. Each prompt's answers are one message."""
    grader = PooledGrader(0, timeout_s)
    try:
        await grader.prove(sorted({task.verifier for step in steps for task in step}))
        return [await _grade(grader, step) for step in steps]
    finally:
        await grader.close()


async def cpu_milliseconds_of(steps: Sequence[Sequence[GradeTask]]) -> list[float]:
    """Return the CPU time of each step: that of this process, which is the grader's, and of all workers."""
    grader, used = PooledGrader(0, 6.0), []
    try:
        await grader.prove(["countdown"])
        for step in steps:
            before = _cpu_seconds()
            await _grade(grader, step)
            used.append(1000 * (_cpu_seconds() - before))
        return used
    finally:
        await grader.close()


async def _grade(grader: PooledGrader, step: Sequence[GradeTask]) -> float:
    started = time.perf_counter()
    await asyncio.gather(*(grader.grade(step[k : k + ANSWERS]) for k in range(0, len(step), ANSWERS)))
    return time.perf_counter() - started


def _cpu_seconds() -> float:
    nanoseconds = 0
    for process in descendants(os.getpid()):
        # Fields of schedstat: nanoseconds on a processor, nanoseconds waiting for one, number of time slices.
        nanoseconds += int(Path(f"/proc/{process}/schedstat").read_bytes().split()[0])
    return time.process_time() + nanoseconds / 1e9


def measure(steps: int) -> list[Row]:
    """Return all rows, each over `steps` steps of a fresh grader."""
    count, rows = PROMPTS * ANSWERS, []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "user_verifiers.py"
        path.write_text(USER_VERIFIERS)
        started = time.perf_counter()
        for _ in range(SEQUENTIAL_CALLS):
            time.sleep(WAIT_S)
        one_by_one = (time.perf_counter() - started) / SEQUENTIAL_CALLS * count
        for name, label in (("waits", "sync"), ("awaits", "async")):
            first, *later = asyncio.run(seconds_of([step_of(f"{path}:{name}", step) for step in range(steps)]))
            rows.append(
                Row(
                    name=f"{label} verifier of {1000 * WAIT_S:.0f} ms", unit="s", first=first,
                    later=statistics.median(later), baseline="one after the other", baseline_value=one_by_one,
                )
            )  # fmt: skip
        hanging = [step_of(f"{path}:hangs", step, hang=True) for step in range(steps)]
        first, *later = asyncio.run(seconds_of(hanging, LIMIT_S))
        rows.append(
            Row(
                name="one answer never returns", unit="s", first=first, later=statistics.median(later),
                baseline="its time limit", baseline_value=LIMIT_S,
            )
        )  # fmt: skip
    countdown = [countdown_step(step) for step in range(steps)]
    first, *later = asyncio.run(cpu_milliseconds_of(countdown))
    before = time.process_time()
    for task in countdown[-1]:
        verify(task.answer, task.problem)
    bare = 1000 * (time.process_time() - before)
    rows.append(
        Row(
            name="Countdown, CPU time", unit="ms", first=first, later=statistics.median(later),
            baseline="the bare function", baseline_value=bare,
        )
    )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3, help="steps of each row, at least 2")
    table = Table(title=f"Grading a step of {PROMPTS} x {ANSWERS} answers")
    for column in ("answers", "unit", "first step", "later steps", "against", "it takes", "ratio"):
        table.add_column(column, justify="left" if column in ("answers", "against") else "right")
    for row in measure(parser.parse_args().steps):
        table.add_row(
            row.name, row.unit, f"{row.first:.2f}", f"{row.later:.2f}", row.baseline, f"{row.baseline_value:.2f}",
            f"{row.ratio:.2f}",
        )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
