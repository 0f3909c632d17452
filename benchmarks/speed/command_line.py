"""Measure how fast the commands that start nothing, and refusals of wrong settings, answer.

    python benchmarks/speed/command_line.py [--repeats 5]

Each row is the median of fresh processes, run in turn, and its ratio to `python -c "import omegaconf, rich.console"` in
the same turn: what an interpreter with a reader of settings and a console takes. Compare the ratios; the seconds depend
on the machine.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
BARE = [sys.executable, "-c", "import omegaconf, rich.console"]
COMMANDS = (
    "",
    "--help",
    "show-config",
    "show-config method=gkd scale=8gpu",
    "show-config --explain learner",
    "methods",
    "train stepz=3",
    "train task.name=countdwon",
    "train policy.path=gone",
    "evaluate evaluate.checkpoints=[a=gone]",
    "presample",
    "warm-start",
    "report gone",
    "verify --verifier cuontdown",
)


def seconds(command: list[str], folder: str) -> float:
    """Return the wall seconds of one process."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, cwd=folder, env={"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode in (0, 2), done.stderr.decode()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="processes per command")
    repeats = parser.parse_args().repeats
    breadth = [sys.executable, "-m", "orchestrator.commands.cli"]
    rows = {"bare interpreter": BARE} | {f"breadth {words}".strip(): [*breadth, *words.split()] for words in COMMANDS}
    measured: dict[str, list[float]] = {name: [] for name in rows}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats + 1):  # the first turn reads the files from disk and is left out
            for name, command in rows.items():
                measured[name].append(seconds(command, folder))
    table = Table(title="Commands that start nothing, and refusals")
    for column in ("command", "median s", "ratio"):
        table.add_column(column, justify="left" if column == "command" else "right")
    for name, values in measured.items():
        ratios = [mine / bare for mine, bare in zip(values[1:], measured["bare interpreter"][1:], strict=True)]
        table.add_row(escape(name), f"{statistics.median(values[1:]):.2f}", f"{statistics.median(ratios):.1f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
