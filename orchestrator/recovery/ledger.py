"""The ledger of a run, `ledger.jsonl`: which prompts each step was trained on, across crashes and resumes.

It is only ever appended to. A resume writes a line that begins at a checkpoint: the steps after it were lost with the
weights of that time, so their lines no longer count. `problems` proves from what counts that no group was lost or used
twice.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.config import Config
from orchestrator.state import RunState
from trajectories.trajectory import Group

LEDGER = "ledger.jsonl"


class Ledger:
    """Appends to a run's ledger. A line is on disk when its method returns.

    Args:
        held: raises if this process no longer holds the run's directory.
    """

    def __init__(self, run_dir: Path, held: Callable[[], None] = lambda: None) -> None:
        self.path, self._held = run_dir / LEDGER, held
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":  # a line whose writer was killed; readers leave it out
            os.write(self._file, b"\n")

    def begin(self, cfg: Config, state: RunState) -> None:
        """Note that the run begins, or goes on after `state.step`."""
        place = {"position": state.position, "trained": list(state.trained)}
        self._append({"event": "begin", "step": state.step, "take": cfg.take, "pid": os.getpid(), **place})

    def step(self, step: int, groups: Sequence[Group], passed: Sequence[int]) -> None:
        """Note the groups that a step was trained on.

        Args:
            passed: positions of prompts that are not trained on: they could not be used, or their groups were dropped.
        """
        rows = [_row(group) for group in groups]
        self._append({"event": "step", "step": step, "groups": rows, "passed": _ranges(passed)})

    def passed(self, positions: Sequence[int]) -> None:
        """Note positions that are not trained on, if there are any. Call it before the state is saved."""
        if positions:
            self._append({"event": "passed", "passed": _ranges(positions)})

    def close(self) -> None:
        os.close(self._file)

    def _append(self, record: dict[str, Any]) -> None:
        self._held()
        line = json.dumps(record | {"time": time.time()}).encode() + b"\n"
        written = os.write(self._file, line)
        if written != len(line):
            raise OSError(f"{self.path}: wrote {written} of {len(line)} bytes")
        os.fsync(self._file)


def _row(group: Group) -> dict[str, Any]:
    """Return what identifies a group: the position and id of its prompt, the weights and the seed of its answers."""
    answers = group.trajectories
    return {
        "position": group.prompt.position,
        "prompt": group.prompt.id,
        "versions": [min(t.first_version for t in answers), max(t.last_version for t in answers)],
        "answers": len(answers),
        "seed": answers[0].seed,  # all others follow from the same prompt
    }


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _ranges(positions: Iterable[int]) -> list[list[int]]:
    """Return positions as [first, last] of each unbroken range."""
    ranges: list[list[int]] = []
    for position in sorted(positions):
        if ranges and position == ranges[-1][1] + 1:
            ranges[-1][1] = position
        else:
            ranges.append([position, position])
    return ranges


def read(run_dir: Path) -> list[dict[str, Any]]:
    """Return the whole records of a run's ledger, oldest first; a line that is none is left out."""
    path = run_dir / LEDGER
    records = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("event") in ("begin", "step", "passed"):
            records.append(record)
    return records


@dataclass
class Account:
    """What a run was trained on, by its ledger."""

    step: int = 0
    """The last step that counts."""
    trained: dict[int, int] = field(default_factory=dict)
    """The step by position of each prompt that was trained on."""
    passed: set[int] = field(default_factory=set)
    """Positions that are not trained on."""
    problems: list[str] = field(default_factory=list)
    resumes: int = 0
    superseded: int = 0
    """Steps that were done and lost, as a resume began before them."""
    _start: int = 0
    _take: str = ""

    def words(self) -> str:
        """Return the account in one line."""
        resumes, steps = _count(self.resumes, "resume"), _count(self.superseded, "step")
        again = f"; {resumes}, {steps} done again" if self.resumes else ""
        fault = f"; {'; '.join(self.problems)}" if self.problems else ", each once and none lost"
        return f"{_count(len(self.trained), 'group')} in {_count(self.step, 'step')}{fault}{again}"

    def begin(self, record: dict[str, Any]) -> None:
        step, position, trained = record["step"], record["position"], set(record["trained"])
        if not self._take:
            self._start, self.step = position, step
            if step:
                self.problems.append(f"the ledger lacks steps 1 to {step}")
        else:
            self._go_back(step, position, trained)
        self._take = record["take"]

    def _go_back(self, step: int, position: int, trained: set[int]) -> None:
        if step > self.step:
            self.problems.append(f"steps {self.step + 1} to {step} are in the checkpoint, but not in the ledger")
        self.resumes += 1
        self.superseded += max(self.step - step, 0)
        self.step = step
        self.trained = {where: at for where, at in self.trained.items() if at <= step}
        self.passed = {where for where in self.passed if where < position}
        self._missing(position)
        later = {where for where in self.trained if where >= position}
        for where in sorted(later ^ trained):
            rule = "was trained on before step" if where in later else "was not trained on up to step"
            self.problems.append(f"position {where} {rule} {step}, and the checkpoint says otherwise")

    def take(self, record: dict[str, Any]) -> None:
        if record["event"] == "step":
            if record["step"] != self.step + 1:
                self.problems.append(f"step {record['step']} follows step {self.step}")
            self.step = record["step"]
            for group in record["groups"]:
                self._use(group["position"])
        for first, last in record["passed"]:
            for where in range(first, last + 1):
                if where in self.trained:
                    self.problems.append(f"position {where} was trained on in step {self.trained[where]}, and left out")
                self.passed.add(where)

    def _use(self, position: int) -> None:
        if position in self.trained:
            self.problems.append(f"position {position} was used twice, in steps {self.trained[position]}, {self.step}")
        self.trained[position] = self.step

    def _missing(self, end: int) -> None:
        """Note the positions before `end` that were neither trained on nor passed."""
        for first, last in _ranges(set(range(self._start, end)) - self.trained.keys() - self.passed):
            self.problems.append(f"positions {first} to {last} were lost")

    def close(self, ended: bool) -> None:
        """Note what is missing at the end. In any order, groups before the last one may still be in flight."""
        if self.trained and (ended or self._take != "any_order"):
            self._missing(max(self.trained))


def account(records: Sequence[dict[str, Any]], *, ended: bool) -> Account:
    """Return what the records of a ledger amount to, with all that is wrong in `problems`.

    Args:
        ended: whether the run did all of its steps.
    """
    found = Account()
    for record in records:
        if record["event"] == "begin":
            found.begin(record)
        else:
            found.take(record)
    found.close(ended)
    return found
