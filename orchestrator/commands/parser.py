"""The command line of `breadth`: its commands, their options and their help."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from configs.hints import other_trainers
from rewards.registry import VERIFIERS, names

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `add_subparsers` returns; argparse has no public name for it."""

EVALUATE = (
    "RUN is the directory or the name of a run, whose policies are measured as they were trained: its config.yaml has "
    "task, verifier, prompt form, dtype and sampling. Its starting policy is the base, and evaluate.checkpoints "
    "chooses others than its last checkpoint: last, best, a step, a directory, all, every:100, 100..500. Results are "
    "in evaluations/NAME of RUN. evaluate.watch=RUN follows a run that is going on."
)
PLAN = (
    "Besides settings: gpus=N and gpu=NAME (a100-40, a100-80, h100, h200, l40s; default gpus=8 gpu=h100); "
    "prompt_tokens=N and answer_tokens=N, means (default: a quarter and a third of their limits), or lengths=RUN for "
    "answers as long as those of a run. The policy's directory needs its config.json alone."
)
SUBMIT_USAGE = """breadth submit [options] COMMAND [options and key=value of COMMAND]
       breadth submit [--address URL] --status [NAME] | --logs NAME | --stop NAME"""
SUBMIT = (
    "COMMAND is train, evaluate, presample, warm-start, inspect-task or verify. NAME is that of a run, or of a job. "
    "The options may also come after COMMAND. "
    "Ctrl-C ends the printing, not the job. The exit status is that of the job."
)
OVERRIDES = "Change settings; method=NAME and scale=NAME choose presets, which `breadth show-config` lists."


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


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line. argparse does not accept overrides after an option, so they are added here."""
    top = parser()
    options, unparsed = top.parse_known_args(arguments)
    if unparsed and (not hasattr(options, "overrides") or any(word.startswith("-") for word in unparsed)):
        top.error(f"unrecognized arguments: {' '.join(unparsed)}{_without_dashes(unparsed, options)}")
    if unparsed:
        options.overrides += unparsed
    if options.command == "submit":
        _take_submit_options(options)
    return options


def _take_submit_options(options: argparse.Namespace) -> None:
    """Take the options of `breadth submit` out of the words of the command to submit, which has none of these names."""
    own = argparse.ArgumentParser(prog="breadth submit", usage=SUBMIT_USAGE, add_help=False, allow_abbrev=False)
    _add_submit_options(own)
    _, options.words = own.parse_known_args(options.words, options)


def _without_dashes(words: Sequence[str], options: argparse.Namespace) -> str:
    """Return the hint for settings that are written like options, as other trainers have them: `--lr 1e-6`."""
    if not hasattr(options, "overrides"):
        return ""
    names = [word.lstrip("-").partition("=")[0].replace("-", "_") for word in words if word.startswith("--")]
    hints = "".join(other_trainers(name) for name in names)
    return f"; settings are written key=value{hints}" if names else ""


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands and their options.

    `module` of the parsed options is the module of `orchestrator.commands` that runs the command.
    """
    description = "Reinforcement learning with verifiable rewards that raises Pass@1 without lowering Pass@k."
    top = argparse.ArgumentParser(prog="breadth", description=description)
    commands = top.add_subparsers(dest="command", metavar="command")
    _add_jobs(commands)
    _add_pages(commands)
    return top


def _command(commands: Subparsers, module: str, text: str) -> argparse.ArgumentParser:
    """Add the command that `module` of `orchestrator.commands` runs."""
    name = module.rpartition(".")[2].replace("_", "-")
    sub = commands.add_parser(name, help=text, description=text)
    sub.set_defaults(module=module)
    return sub


def _configured(commands: Subparsers, module: str, text: str) -> argparse.ArgumentParser:
    """Add a command that reads settings."""
    sub = _command(commands, module, text)
    sub.add_argument("--config", metavar="FILE", help="Read settings from this YAML file; overrides change them.")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)
    return sub


def _add_json(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true", help="Write lines of JSON to standard output, for machines.")


def _add_jobs(commands: Subparsers) -> None:
    """Add the commands that train, measure or verify."""
    sub = _configured(commands, "jobs.train", "Train a policy.")
    sub.add_argument("--resume", action="store_true", help="Continue the run `name` from its last complete checkpoint.")
    _add_json(sub)
    text = (
        "Continue a run that fails, hangs or is killed by itself, at most N times without a new checkpoint (default 0)."
    )
    sub.add_argument("--restarts", type=int, default=0, metavar="N", help=text)
    text = "Run another command as a job on a Ray cluster, and follow its output; list, follow or stop such jobs."
    _add_submit(_command(commands, "jobs.submit", text))
    _add_json(_configured(commands, "jobs.warm_start", "Train a small policy from scratch on a task's own solutions."))
    text = "Store correct answers of the reference policy for rehearsal (DPH-RL)."
    _add_json(_configured(commands, "jobs.presample", text))
    text = "Measure Pass@k of a run's last checkpoint, or of any policies, on the held-out prompts."
    sub = _configured(commands, "jobs.evaluate", text)
    sub.usage, sub.epilog = "breadth evaluate [-h] [RUN] [--config FILE] [--json] [key=value ...]", EVALUATE
    _add_json(sub)
    text = "Report duplicates, novelty and contamination of a task's prompts."
    _add_inspection(_configured(commands, "jobs.inspect_task", text))
    text = "Verify the answers of a file or of a run, or check that a task's right answers pass."
    _add_verify(_command(commands, "jobs.verify", text))
    text = "Run a recorded update again, and compare it with what was recorded (logbook.dump_steps)."
    sub = _command(commands, "jobs.replay_step", text)
    sub.add_argument("folder", type=Path, metavar="FOLDER", help="A step of a run: RUN/steps/step-000003.")
    changes = "Change settings, such as placement.device=cpu or policy.dtype=float32."
    sub.add_argument("overrides", nargs="*", metavar="key=value", help=changes)
    text = "Train five methods from one policy here, and compare them with it sampled colder."
    sub = _command(commands, "jobs.compare", text)
    _add_output(sub, "Write all files to this directory", Path("runs/compare"), "DIR")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="Change settings of all runs.")


def _add_pages(commands: Subparsers) -> None:
    """Add the commands that print or write pages."""
    text = "Print all settings and what they mean, without starting anything."
    sub = _configured(commands, "pages.show_config", text)
    offline = "Check the settings alone, without reading data and policy."
    sub.add_argument("--offline", action="store_true", help=offline)
    explained = "Print the meaning of this setting or section instead; without KEY, of all settings."
    sub.add_argument("--explain", nargs="?", const="", metavar="KEY", help=explained)
    text = "Recommend placement, lag and budgets on GPUs, with the time of a step by simulation."
    sub = _configured(commands, "pages.plan", text)
    sub.usage, sub.epilog = "breadth plan [-h] [--config FILE] [gpus=N] [gpu=NAME] [key=value ...]", PLAN
    text = "List every method with its paper and settings, or show one with its equations."
    sub = _command(commands, "pages.methods", text)
    sub.add_argument("name", nargs="?", metavar="NAME", help="Show this method.")
    text = "Write figures and one self-contained HTML page about runs and an evaluation."
    sub = _command(commands, "pages.report", text)
    sub.add_argument("runs", nargs="*", metavar="RUN", help="Directory, or URL, of a run to show.")
    evaluation = "Evaluation to show (default: the latest of the runs)."
    sub.add_argument("--evaluation", type=Path, metavar="DIR", help=evaluation)
    output = (
        "Write the page to this file (default RUN/report.html; of several runs report-NAMES.html beside the first)."
    )
    sub.add_argument("--output", type=Path, metavar="FILE", help=output)
    text = "Show the sampled answers of a run, token by token: in a browser, a terminal, or one HTML file."
    _add_view(_command(commands, "pages.view", text))
    text = "Write the policy of a checkpoint as a Hugging Face directory with a model card."
    _add_export(_command(commands, "pages.export", text))


def _add_output(sub: argparse.ArgumentParser, text: str, default: Path, metavar: str) -> None:
    sub.add_argument("--output", type=Path, default=default, metavar=metavar, help=f"{text} (default {default}).")


def _add_inspection(sub: argparse.ArgumentParser) -> None:
    text = "Write the page to this file, and its numbers to a .json file beside it"
    _add_output(sub, text, Path("runs/task.html"), "FILE")


def _add_export(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("run", metavar="RUN", help="Directory, or URL, of the run.")
    sub.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="Write the policy to this new directory."
    )
    sub.add_argument("--step", type=int, metavar="N", help="Step of the checkpoint (default: the newest).")
    sub.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="Of the weights (default bfloat16)."
    )


def _add_submit(sub: argparse.ArgumentParser) -> None:
    sub.usage, sub.epilog = SUBMIT_USAGE, SUBMIT
    _add_submit_options(sub)
    sub.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND ...", help="The command and its words.")


def _add_submit_options(sub: argparse.ArgumentParser) -> None:
    address = "Dashboard of the cluster, as http://head-node:8265 (default $RAY_ADDRESS, or that of this machine)."
    sub.add_argument("--address", default="", metavar="URL", help=address)
    sub.add_argument("--status", nargs="?", const="", metavar="NAME", help="List all jobs, or those of a run.")
    sub.add_argument("--logs", metavar="NAME", help="Print the output of a run's job, and follow it to its end.")
    stop = "Stop a run's job: `train` finishes its step and writes a checkpoint."
    sub.add_argument("--stop", metavar="NAME", help=stop)
    folder = "Send this folder as the job's working directory (default: the current one)."
    sub.add_argument("--working-dir", type=Path, default=Path(), metavar="DIR", help=folder)
    exclude = "Leave out files by a pattern as in a .gitignore. May be repeated, as all options below."
    sub.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help=exclude)
    sub.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="Set a variable of the job.")
    secret = (
        "Send this variable as a secret to the job's driver and all roles, and so to your own verifier. WANDB_API_KEY "
        "(driver) and HF_TOKEN (driver, and roles that load policies of the Hub) are sent anyway where they are set."
    )
    sub.add_argument("--secret", action="append", default=[], metavar="NAME", help=secret)
    pip = "Install this package for the job alone. The nodes need a package index."
    sub.add_argument("--pip", action="append", default=[], metavar="PACKAGE", help=pip)
    installed = "Run the Breadth that is installed on the nodes, instead of sending this one's source."
    sub.add_argument("--installed", action="store_true", help=installed)
    sub.add_argument("--detach", action="store_true", help="End when the job is submitted, without following it.")


def _add_view(sub: argparse.ArgumentParser) -> None:
    run = "Directory of the run, which may still go on, or its URL, such as s3://bucket/runs/first."
    sub.add_argument("run", metavar="RUN", help=run)
    sub.add_argument("--port", type=int, default=0, metavar="N", help="Serve at this port (default: a free one).")
    ways = sub.add_mutually_exclusive_group()
    ways.add_argument("--export", type=Path, metavar="FILE", help="Write one HTML file, which needs no server.")
    ways.add_argument("--terminal", action="store_true", help="Print the answers here.")
    sub.add_argument("--last", type=int, default=32, metavar="N", help="Answers to print (default 32, the newest).")
    colours = ("entropy", "logp", "divergence", "advantage", "mismatch", "staleness")
    sub.add_argument("--colour", choices=colours, default="entropy", help="Of printed tokens (default entropy).")
    choices = sub.add_argument_group("answers to export or print (the page in the browser has the same choices)")
    choices.add_argument("--step", type=int, metavar="N", help="Of this step.")
    choices.add_argument("--status", default="", help="With this status: correct, wrong, ...")
    choices.add_argument("--route", default="", help="On this route: explore, ...")
    choices.add_argument("--problem", default="", metavar="TEXT", help="With this text in the prompt or its id.")
    choices.add_argument("--min-reward", type=float, metavar="R", help="With at least this reward.")
    choices.add_argument("--max-reward", type=float, metavar="R", help="With at most this reward.")


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
    _add_json(sub)
    sub.add_argument("overrides", nargs="*", metavar="key=value", help=f"{OVERRIDES} Only with --task.")
