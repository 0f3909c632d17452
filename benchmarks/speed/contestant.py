"""A trainer as a command that runs beside others in turns: while one works, the others are paused between two steps."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.speed.plan import ROOT, Plan
from benchmarks.speed.processes import MARK, Tree, new_mark

POLL_S = 0.005
"""Seconds between two looks at a contestant's progress: a turn ends this much after a step at most."""


class Failed(RuntimeError):
    """A contestant ended or took no step in its time."""


@dataclass(frozen=True)
class Turn:
    """What a contestant did between two pauses."""

    seconds: float
    steps: int
    records: Sequence[Mapping[str, Any]]
    """The progress lines of these steps."""
    cpu_seconds: Mapping[str, float]
    """By role."""

    @property
    def step_s(self) -> float:
        """Return the mean seconds of a step."""
        return self.seconds / self.steps

    def median(self, metric: str) -> float:
        """Return the median of a value of the progress lines, without the first, whose times include the pause."""
        assert self.steps > 1, "a turn of one step has no step without a pause"
        return statistics.median(record[metric] for record in self.records[1:])


@dataclass
class Contestant:
    """A command that appends one line of JSON to a file after every optimizer step.

    Args:
        step_limit_s: longest wait for one step.
    """

    name: str
    command: Sequence[str]
    progress: Path
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    start_limit_s: float = 240.0
    step_limit_s: float = 240.0

    def __enter__(self) -> "Contestant":
        mark = new_mark()
        # Without the number of threads that `make` sets, as for a user who types the command.
        inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        environment = inherited | {"PYTHONPATH": str(ROOT), MARK: mark} | self.environment
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.tree = Tree(self.process.pid, mark)
        return self

    def __exit__(self, *error: object) -> None:
        self.tree.end()
        self.process.wait(timeout=10)

    def start(self, steps: int) -> float:
        """Wait until `steps` steps are done, and pause.

        Returns:
            Seconds from the command to the first step.
        """
        self._wait(1, self.start_limit_s)
        first = time.monotonic() - self.started
        for step in range(2, steps + 1):
            self._wait(step, self.step_limit_s)
        self.tree.pause()
        return first

    def turn(self, least_s: float, least_steps: int = 1) -> Turn:
        """Go on, and pause at the end of the first step after `least_s` seconds and `least_steps` steps."""
        done, cpu = len(self.records()), self.tree.cpu_seconds()
        step, start = done, time.monotonic()
        self.tree.proceed()
        while time.monotonic() - start < least_s or step < done + least_steps:
            step += 1
            self._wait(step, self.step_limit_s)
        seconds = time.monotonic() - start
        self.tree.pause()
        spent = {role: value - cpu.get(role, 0.0) for role, value in self.tree.cpu_seconds().items()}
        return Turn(seconds, step - done, self.records()[done:step], spent)

    def records(self) -> list[dict[str, Any]]:
        """Return the lines of progress so far."""
        if not self.progress.exists():
            return []
        *lines, _ = self.progress.read_bytes().split(b"\n")
        return [record for record in map(json.loads, lines) if record["step"] > 0]

    def _wait(self, step: int, limit_s: float) -> None:
        until, size = time.monotonic() + limit_s, -1
        while True:
            now = self.progress.stat().st_size if self.progress.exists() else -1
            if now != size and len(self.records()) >= step:
                return
            size = now
            if self.process.poll() is not None:
                raise Failed(f"{self.name} ended with status {self.process.returncode}: {self._last_words()}")
            if time.monotonic() > until:
                raise Failed(f"{self.name} did not finish step {step} within {limit_s:.0f} s")
            time.sleep(POLL_S)

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "no output"


def breadth(plan: Plan, name: str, *settings: str, **options: Any) -> Contestant:
    """Return `breadth train` with these settings; it has neither measurements nor checkpoints between steps."""
    runs = plan.folder / "runs"
    command = [
        *(sys.executable, "-m", "orchestrator.commands.cli", "train", "scale=cpu", "steps=1000000"),
        *("monitor.every=0", "checkpoint.every=0", "logbook.console=false", f"name={name}", f"runs={runs}"),
        *(plan.small if plan.quick else ()),
        *settings,
    ]
    log = plan.folder / "logs" / f"{name}.log"
    return Contestant(f"breadth {name}", command, runs / name / "metrics.jsonl", log, **options)


def trl(
    plan: Plan,
    name: str,
    *,
    threads: int = 1,
    start_limit_s: float = 240.0,
    environment: Mapping[str, str] | None = None,
    **settings: Any,
) -> Contestant:
    """Return TRL's GRPOTrainer with these settings of `peers.trl_trainer.Settings`."""
    assert plan.trl, "TRL is not installed"
    progress = plan.folder / "trl" / f"{name}.jsonl"
    progress.parent.mkdir(parents=True, exist_ok=True)
    values = ({"prompts": 4, "answers": 4} if plan.quick else {}) | settings
    command = [plan.trl, "-m", "benchmarks.speed.peers.trl_trainer", str(progress), json.dumps(values)]
    variables = {"OMP_NUM_THREADS": str(threads)} | dict(environment or {})
    log = plan.folder / "logs" / f"trl_{name}.log"
    return Contestant(f"TRL {name}", command, progress, log, variables, start_limit_s)


def peers(plan: Plan, name: str, counts: Sequence[int] = (1, 2), **settings: Any) -> list[Contestant]:
    """Return TRL with each of these numbers of threads; none if it is not installed."""
    counts = () if not plan.trl else counts[:1] if plan.quick else counts
    return [trl(plan, f"{name}_{count}_threads", threads=count, **settings) for count in counts]


def in_turns(
    contestants: Sequence[Contestant], rounds: int, least_s: float, *, least_steps: int = 1, warm_up: int = 2
) -> dict[str, list[Turn]]:
    """Start the contestants one after the other, let each take one turn per round, and end them.

    Every other round goes through them backwards, so that a slow change of the machine meets all alike.

    Args:
        warm_up: steps of each before the first round.

    Returns:
        The turns of each contestant, by its name.
    """
    turns: dict[str, list[Turn]] = {contestant.name: [] for contestant in contestants}
    with ExitStack() as stack:
        for contestant in contestants:
            first = stack.enter_context(contestant).start(warm_up)
            print(f"    {contestant.name}: first step after {first:.1f} s", flush=True)
        for number in range(rounds):
            for contestant in contestants if number % 2 == 0 else reversed(contestants):
                turns[contestant.name].append(contestant.turn(least_s, least_steps))
                latest = turns[contestant.name][-1]
                print(f"    round {number + 1}, {contestant.name}: {latest.step_s:.2f} s a step", flush=True)
    return turns
