"""The `breadth` command."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from rewards.registry import VERIFIERS, names

ROOT = Path(__file__).resolve().parents[2]
OVERRIDES = "key=value settings; method=NAME and scale=NAME choose presets (see `breadth show-config`)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for a failure, 2 for bad settings, 130 when interrupted."""
    options = _parse(arguments)
    console = Console(stderr=True, highlight=False)
    # One thread per process: on small machines two busy OpenMP threads can be 20 times slower than one.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        # Imported only now: most commands load torch and Ray, and a wrong word should be told at once.
        command = importlib.import_module(f"orchestrator.commands.{options.command.replace('-', '_')}")
        status: int | None = command.run(options, console)
    except ValueError as error:
        if not _told_by_us(error):
            raise
        console.print(f"[red]breadth:[/red] {escape(str(error))}", soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("breadth: interrupted")
        return 130
    return status or 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """argparse leaves overrides that follow an option over; they are overrides all the same."""
    top = parser()
    options, left = top.parse_known_args(arguments)
    if left and (not hasattr(options, "overrides") or any(word.startswith("-") for word in left)):
        top.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        options.overrides += left
    return options


def _told_by_us(error: ValueError) -> bool:
    """Whether the house itself raised it, as it does for bad settings; a library's is a crash and keeps its trace."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and Path(trace.tb_frame.f_code.co_filename).is_relative_to(ROOT)


def verifier_list() -> str:
    """Return the text of `breadth verify --help` about verifiers and the fields of their rows."""
    lines = ["Verifiers, and the fields that each of their rows must have besides id and answer:"]
    for name, row in VERIFIERS.items():
        fields = "; ".join(f"{field.name}: {field.allowed}" for field in row.fields) or "none"
        lines += [f"  {name}", f"      {row.help}", f"      {fields}"]
    lines += [
        "  package.module:function",
        "      a verifier of your own; all fields of a row are its problem",
        "",
        "A row with verifier, problem and answer, as in a run's trajectories.jsonl, needs no other field. If it also",
        "has reward and status, the command prints how many rows get another verdict than the recorded one. The exit",
        "status does not depend on that number.",
    ]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="breadth", description="RLVR whose Pass@1 rises while its Pass@k does not fall.")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    def configured(name: str, text: str) -> argparse.ArgumentParser:
        sub = command(name, text)
        sub.add_argument("--config", metavar="FILE", help="YAML file with settings, under the overrides")
        sub.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)
        return sub

    sub = configured("train", "Train a policy.")
    sub.add_argument("--resume", action="store_true", help="continue the run `name` from its last whole checkpoint")
    configured("warm-start", "Make a small policy by supervised training on a task's own solutions.")
    configured("presample", "Store correct answers of the reference policy for rehearsal (DPH-RL).")
    configured("evaluate", "Measure Pass@k of one or more policies on the held-out prompts.")
    configured("show-config", "Print the resolved settings and what they mean, without starting anything.")
    sub = command("verify", "Grade a jsonl file of answers, judge a run's answers again, or test a task's verifier.")
    sub.formatter_class, sub.epilog = argparse.RawDescriptionHelpFormatter, verifier_list()
    what = sub.add_mutually_exclusive_group()
    all_rows = f"verifier of all rows: {names()}. Without it, each row names its own, as in trajectories.jsonl"
    what.add_argument("--verifier", metavar="NAME", help=all_rows)
    right = "judge right answers of this task instead of a file; exit status 1 if one is not judged correct"
    what.add_argument("--task", metavar="NAME", help=right)
    sub.add_argument("--input", type=Path, metavar="FILE", help="rows to grade (see below)")
    output = "rows with id, reward, status, reason and seconds; may be left out without --verifier"
    sub.add_argument("--output", type=Path, metavar="FILE", help=output)
    sub.add_argument("--count", type=int, default=200, metavar="N", help="right answers of the task (default 200)")
    sub.add_argument("--workers", type=int, metavar="N", help="answers judged at a time (default: one per core)")
    sub.add_argument("--timeout-s", type=float, metavar="S", help="seconds for one answer (default grader.timeout_s)")
    sub.add_argument("--require", type=int, choices=range(4), help="isolation level required (default sandbox.require)")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES + ", with --task")
    sub = command("report", "Write plots and one self-contained HTML page about runs and an evaluation.")
    sub.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run directories")
    sub.add_argument("--evaluation", type=Path, metavar="DIR", help="output directory of `breadth evaluate`")
    sub.add_argument("--output", type=Path, default=Path("runs/report.html"), metavar="FILE")
    sub = command("demo", "GRPO against DPH-F and DPH-JS from the same policy, on this machine, in minutes.")
    sub.add_argument("--output", type=Path, default=Path("runs/demo"), metavar="DIR")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="settings of all three runs")
    return top


if __name__ == "__main__":
    sys.exit(main())
