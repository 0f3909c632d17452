"""What the benchmark measures: subjects, each in a process of its own with a limit on its time.

    python -m benchmarks.speed.subjects NAME PLAN OUTPUT

measures one subject in this process: PLAN is the JSON of a Plan, OUTPUT the file for its rows.
"""

import importlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.speed.plan import ROOT, Plan
from benchmarks.speed.processes import MARK, Tree, guarded, new_mark
from benchmarks.speed.result import Row, read_rows, write_rows


@dataclass(frozen=True)
class Subject:
    """A function that measures one or more rows."""

    function: str
    """`module:function` in `benchmarks/speed/rows/`; it takes a Plan and returns rows."""
    limit_s: float
    """Longest time in seconds; then its processes are ended. A subject takes a third to a half of it."""


SUBJECTS: dict[str, Subject] = {
    "rollouts": Subject("rollouts:countdown", 700),
    "rollouts_10M": Subject("random_rollouts:measure", 500),
    "rollouts_smollm": Subject("rollouts:smollm", 900),
    "slow_verifier": Subject("verifiers:slow", 500),
    "stuck_verifier": Subject("verifiers:stuck", 400),
    "start": Subject("start:measure", 500),
    "generation": Subject("generation:measure", 400),
    "publication": Subject("publication:measure", 400),
    "learner": Subject("learner:measure", 200),
    "memory": Subject("learner:memory", 200),
    "head": Subject("head:measure", 600),
    "ranks": Subject("learner:ranks", 200),
    "divergences": Subject("divergences:measure", 400),
    "soak": Subject("soak:measure", 600),
}


def run(name: str, plan: Plan) -> tuple[list[Row], float]:
    """Measure one subject in a process of its own, and end every process that it started.

    Returns:
        Its rows, or one that says why there are none, and the seconds it took.
    """
    subject, start = SUBJECTS[name], time.monotonic()
    limit_s = subject.limit_s + (60 * plan.soak_minutes if name == "soak" else 0.0)
    output, log = plan.folder / f"{name}.json", plan.folder / "logs" / f"{name}.log"
    output.unlink(missing_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    mark = new_mark()
    environment = os.environ | {"PYTHONPATH": str(ROOT), MARK: mark}
    command = [sys.executable, "-m", "benchmarks.speed.subjects", name, plan.to_json(), str(output)]
    with log.open("wb") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=errors, start_new_session=True)
    with guarded(Tree(process.pid, mark)):
        try:
            status = process.wait(limit_s)
            reason = f"it ended with status {status}: {last_line(log)}"
        except subprocess.TimeoutExpired:
            reason = f"it did not end within {limit_s:.0f} s"
    process.wait(10)
    seconds = time.monotonic() - start
    if output.exists():
        return read_rows(output)[0], seconds
    return [Row(name=f"{name}/failed", title=name.replace("_", " "), unit="", reason=reason)], seconds


def last_line(log: Path) -> str:
    """Return the last line of a log, shortened."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "no output"


def main(name: str, plan: Plan, output: Path) -> None:
    module, function = SUBJECTS[name].function.split(":")
    rows: list[Row] = getattr(importlib.import_module(f"benchmarks.speed.rows.{module}"), function)(plan)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
    write_rows(output, [replace(row, date=now) for row in rows], {})


if __name__ == "__main__":
    main(sys.argv[1], Plan.from_json(sys.argv[2]), Path(sys.argv[3]))
