"""The `breadth` command: parse the command line, run one command, and report the user's errors in one line."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from configs.hints import other_trainers
from rewards.registry import VERIFIERS, names

ROOT = Path(__file__).resolve().parents[2]
EVALUATE = (
    "RUN is the directory or the name of a run, whose policies are measured as they were trained: its config.yaml has "
    "task, verifier, prompt form, dtype and sampling. Its starting policy is the base, and evaluate.checkpoints "
    "chooses others than its last checkpoint: last, best, a step, a directory. Results are in evaluations/NAME of RUN."
)
PLAN = (
    "Besides settings: gpus=N and gpu=NAME (a100-40, a100-80, h100, h200, l40s; default gpus=8 gpu=h100); "
    "prompt_tokens=N and answer_tokens=N, means (default: a quarter and a third of their limits), or lengths=RUN for "
    "answers as long as those of a run. The policy's directory needs its config.json alone."
)
FIRST = """Breadth trains language models by reinforcement learning with verifiable rewards. To begin:

  breadth compare        train five methods from a small policy on this machine, and compare them (6 minutes on 2 cores)
  breadth show-config    print every setting and what follows from it; --explain KEY prints the meaning of one
  breadth methods        list the methods; breadth methods NAME shows one with its equations
  breadth train policy.path=DIRECTORY task.name=dataset task.options.path=FILE.jsonl name=first
                         train your own policy on your own problems
  breadth --help         list all commands"""
OVERRIDES = "Change settings; method=NAME and scale=NAME choose presets, which `breadth show-config` lists."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 1 for a failure, 2 for wrong settings, 130 when interrupted."""
    options = _parse(arguments)
    console = Console(stderr=True, highlight=False)
    if options.command is None:
        Console(highlight=False).print(FIRST, soft_wrap=True, markup=False)
        return 0
    # One thread per process: on small machines two busy OpenMP threads can be 20 times slower than one.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        # The modules that start roles load torch and Ray, which takes seconds. Each command imports them after it has
        # checked its settings.
        command = importlib.import_module(f"orchestrator.commands.{options.command.replace('-', '_')}")
        status: int | None = command.run(options, console)
    except ValueError as error:
        if not _raised_by_breadth(error):
            raise
        console.print(f"[red]breadth:[/red] {escape(str(error))}", soft_wrap=True)
        return 2
    except KeyboardInterrupt as interrupt:
        lines = ["breadth: interrupted", *getattr(interrupt, "__notes__", [])]
        console.print("\n".join(lines), markup=False, soft_wrap=True)
        return 130
    return status or 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line. argparse does not accept overrides after an option, so they are added here."""
    top = parser()
    options, unparsed = top.parse_known_args(arguments)
    if unparsed and (not hasattr(options, "overrides") or any(word.startswith("-") for word in unparsed)):
        top.error(f"unrecognized arguments: {' '.join(unparsed)}{_without_dashes(unparsed, options)}")
    if unparsed:
        options.overrides += unparsed
    return options


def _without_dashes(words: Sequence[str], options: argparse.Namespace) -> str:
    """Return the hint for settings that are written like options, as other trainers have them: `--lr 1e-6`."""
    if not hasattr(options, "overrides"):
        return ""
    names = [word.lstrip("-").partition("=")[0].replace("-", "_") for word in words if word.startswith("--")]
    hints = "".join(other_trainers(name) for name in names)
    return f"; settings are written key=value{hints}" if names else ""


def _raised_by_breadth(error: ValueError) -> bool:
    """Return whether this project's own code raised `error`, as it does for wrong settings.

    A ValueError of a library is a bug, so it is shown with its traceback.
    """
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
    """Return the parser of all commands and their options."""
    description = "Reinforcement learning with verifiable rewards that raises Pass@1 without lowering Pass@k."
    top = argparse.ArgumentParser(prog="breadth", description=description)
    commands = top.add_subparsers(dest="command", metavar="command")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    def configured(name: str, text: str) -> argparse.ArgumentParser:
        sub = command(name, text)
        sub.add_argument("--config", metavar="FILE", help="Read settings from this YAML file; overrides change them.")
        sub.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)
        return sub

    sub = configured("train", "Train a policy.")
    sub.add_argument("--resume", action="store_true", help="Continue the run `name` from its last complete checkpoint.")
    configured("warm-start", "Train a small policy from scratch on a task's own solutions.")
    configured("presample", "Store correct answers of the reference policy for rehearsal (DPH-RL).")
    sub = configured(
        "evaluate", "Measure Pass@k of a run's last checkpoint, or of any policies, on the held-out prompts."
    )
    sub.usage, sub.epilog = "breadth evaluate [-h] [RUN] [--config FILE] [key=value ...]", EVALUATE
    _add_inspection(configured("inspect-task", "Report duplicates, novelty and contamination of a task's prompts."))
    sub = configured("show-config", "Print all settings and what they mean, without starting anything.")
    offline = "Check the settings alone, without reading data and policy."
    sub.add_argument("--offline", action="store_true", help=offline)
    explained = "Print the meaning of this setting or section instead; without KEY, of all settings."
    sub.add_argument("--explain", nargs="?", const="", metavar="KEY", help=explained)
    sub = configured("plan", "Recommend placement, lag and budgets on GPUs, with the time of a step by simulation.")
    sub.usage, sub.epilog = "breadth plan [-h] [--config FILE] [gpus=N] [gpu=NAME] [key=value ...]", PLAN
    sub = command("methods", "List every method with its paper and settings, or show one with its equations.")
    sub.add_argument("name", nargs="?", metavar="NAME", help="Show this method.")
    text = "Verify the answers of a file or of a run, or check that a task's right answers pass."
    _add_verify(command("verify", text))
    sub = command("report", "Write figures and one self-contained HTML page about runs and an evaluation.")
    sub.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="Directory of a run to show.")
    sub.add_argument(
        "--evaluation", type=Path, metavar="DIR", help="Evaluation to show (default: the latest of the runs)."
    )
    default = Path("runs/report.html")
    sub.add_argument(
        "--output", type=Path, default=default, metavar="FILE", help=f"Write the page to this file (default {default})."
    )
    _add_export(command("export", "Write the policy of a checkpoint as a Hugging Face directory with a model card."))
    sub = command("compare", "Train five methods from one policy here, and compare them with it sampled colder.")
    default = Path("runs/compare")
    sub.add_argument(
        "--output",
        type=Path,
        default=default,
        metavar="DIR",
        help=f"Write all files to this directory (default {default}).",
    )
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="Change settings of all runs.")
    return top


def _add_inspection(sub: argparse.ArgumentParser) -> None:
    default = Path("runs/task.html")
    files = f"Write the page to this file, and its numbers to a .json file beside it (default {default})."
    sub.add_argument("--output", type=Path, default=default, metavar="FILE", help=files)


def _add_export(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("run", type=Path, metavar="RUN", help="Directory of the run.")
    sub.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="Write the policy to this new directory."
    )
    sub.add_argument("--step", type=int, metavar="N", help="Step of the checkpoint (default: the newest).")
    sub.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="Of the weights (default bfloat16)."
    )


def _add_verify(sub: argparse.ArgumentParser) -> None:
    sub.formatter_class, sub.epilog = argparse.RawDescriptionHelpFormatter, verifier_list()
    answers = sub.add_mutually_exclusive_group()
    all_rows = f"Verify all rows of --input with this verifier: {names()}."
    each_row = "Without it, each row names its own, as in the trajectories.jsonl of a run."
    answers.add_argument("--verifier", metavar="NAME", help=f"{all_rows} {each_row}")
    answers.add_argument(
        "--task", metavar="NAME", help="Verify right answers of this task; exit with status 1 if one is rejected."
    )
    sub.add_argument("--input", type=Path, metavar="FILE", help="Read these rows (see below).")
    output = (
        "Write rows with id, reward, status, reason and seconds. Optional without --verifier, or with --audit or "
        "--compare, which add fields."
    )
    sub.add_argument("--output", type=Path, metavar="FILE", help=output)
    audit = "List answers that are undecided or disagree with the row's field correct (true or false), as extracted."
    sub.add_argument("--audit", action="store_true", help=audit)
    compare = "Judge all rows with this verifier too, and list the answers that it gives another reward."
    sub.add_argument("--compare", metavar="NAME", help=compare)
    sub.add_argument(
        "--count",
        type=int,
        default=200,
        metavar="N",
        help="Number of the task's right answers to verify (default 200).",
    )
    sub.add_argument(
        "--workers", type=int, metavar="N", help="Use this many worker processes (default: as many as are needed)."
    )
    sub.add_argument(
        "--timeout-s", type=float, metavar="S", help="Time limit for one answer in seconds (default grader.timeout_s)."
    )
    sub.add_argument(
        "--require", type=int, choices=range(4), help="Lowest allowed isolation level (default sandbox.require)."
    )
    sub.add_argument("overrides", nargs="*", metavar="key=value", help=f"{OVERRIDES} Only with --task.")


if __name__ == "__main__":
    sys.exit(main())
