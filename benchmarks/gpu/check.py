"""Check Breadth on one GPU, in below 8 minutes: python -m benchmarks.gpu.check

Needs torch >= 2.11, transformers >= 5.17, omegaconf and, for whole runs, pyarrow; vLLM and Ray are used where they are
installed. Every stage is a process of its own with a deadline, so that a hang or a full memory ends that stage alone.
The stages with the largest risks come first. After each one its findings are printed as JSON and written to
OUTPUT/STAGE.json; OUTPUT/check.json has all of them.

With --small it runs the smallest sizes, which a CPU computes within a minute, to show that all works.

Exit status 1: a stage failed, was cut, or differs by more than its tolerance.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu.machine import ROOT, described, has_gpu, missing
from benchmarks.gpu.page import table, write_page

STAGES = {
    "learner": 140, "attention": 50, "training": 60, "methods": 90, "options": 55, "head": 30, "handles": 40,
}  # fmt: skip
"""Deadline of each stage in seconds, which includes its imports. Its docstring estimates its time on an H100: together
about half of the limit. No GPU has measured it."""
LIMIT_S = 465.0
"""Most seconds of the whole command."""
RESULTS = "check.json"
TAIL = 3_000
"""Characters of a stage's output that are kept if it does not end well."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages, and return the exit status."""
    chosen = _parsed(arguments)
    if lacking := missing():
        print(f"missing: {', '.join(lacking)}; install them, or put their wheels on PYTHONPATH", file=sys.stderr)
        return 1
    device = chosen.device or ("cuda" if has_gpu() else "cpu")
    if device == "cpu" and not chosen.small:
        print("there is no GPU here: use --small to see whether all works on a CPU", file=sys.stderr)
        return 1
    output = Path(chosen.output)
    output.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    about = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "small": chosen.small, **described(device)}
    stages: list[dict[str, Any]] = []
    for stage in chosen.stages:
        left = chosen.limit - (time.monotonic() - start)
        found = run_stage(stage, output, device, small=chosen.small, deadline_s=min(STAGES[stage], left))
        stages.append(found)
        results = {"about": about | {"seconds": round(time.monotonic() - start, 1)}, "stages": stages}
        (output / RESULTS).write_text(json.dumps(results, indent=1) + "\n")
        print(json.dumps(found), flush=True)
    print(table(results), flush=True)
    if chosen.publish:
        write_page(results)
    return int(any(found["outcome"] != "passed" for found in stages))


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu.check", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="the smallest sizes")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="", help="default: cuda if there is a GPU")
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES), help="default: all")
    parser.add_argument("--output", default=os.environ.get("OUT") or "runs/gpu_check", help="folder of the JSON files")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="most seconds of all stages together")
    parser.add_argument("--publish", action="store_true", help="write the table to docs/performance.md")
    return parser.parse_args(arguments)


def run_stage(stage: str, output: Path, device: str, *, small: bool, deadline_s: float) -> dict[str, Any]:
    """Run a stage in a process of its own, and end it and all its children at the deadline. Return its findings."""
    file = output.resolve() / f"{stage}.json"
    file.unlink(missing_ok=True)
    if deadline_s < 1:
        return {"stage": stage, "outcome": "not started: no time is left"}
    scratch = Path(tempfile.mkdtemp(prefix=f"breadth-{stage}-"))
    words = [sys.executable, "-m", "benchmarks.gpu.stage", stage, str(file), device, str(scratch)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with (scratch / "output.txt").open("w+") as printed:
        process = subprocess.Popen(
            [*words, *(["small"] if small else [])],
            stdout=printed, stderr=subprocess.STDOUT, cwd=ROOT, env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            outcome = "passed" if process.wait(deadline_s) == 0 else f"failed, exit status {process.returncode}"
        except subprocess.TimeoutExpired:
            outcome = f"cut after {deadline_s:.0f} s"
        finally:
            _end(process)
        printed.seek(0)
        text = printed.read()
    shutil.rmtree(scratch, ignore_errors=True)
    found = json.loads(file.read_text()) if file.exists() else {"stage": stage}
    found["outcome"] = outcome
    if outcome != "passed":
        found["output"] = text[-TAIL:]
    file.write_text(json.dumps(found, indent=1) + "\n")
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a stage and the processes that it has started, which are in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
