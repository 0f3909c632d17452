"""`breadth report`: write figures and one self-contained HTML page about runs and an evaluation."""

import argparse
import hashlib
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from orchestrator.commands.options import line_printer
from orchestrator.evaluation.folders import latest, latest_of_each
from orchestrator.remote_runs.fetch import local_run
from orchestrator.remote_runs.mirror import copy_now
from orchestrator.remote_runs.place import is_url
from orchestrator.report.inputs import RESULTS, check_evaluation, named_runs

NAMES_LIMIT = 100
"""Characters of the runs' names in the name of a page."""


def run(options: argparse.Namespace, console: Console) -> None:
    """Write the page, with the latest evaluation of each run unless another one is given."""
    log = line_printer(console)
    runs = named_runs([local_run(given, log) for given in options.runs])
    folder = options.evaluation or latest(runs.values())
    if options.evaluation and not (options.evaluation / RESULTS).is_file():
        folder = latest([options.evaluation]) or folder
    if folder:
        check_evaluation(folder)
    output = options.output or default_output(options.runs, runs, folder)
    console.print("loading matplotlib, and drawing the figures ...")
    # They load scipy and matplotlib, so only after the checks.
    names = ("report.compared", "report.write", "sinks.report_run")
    reading, writing, sending = (importlib.import_module(f"orchestrator.{name}") for name in names)
    folders = [folder] if folder and options.evaluation else latest_of_each(runs.values())
    # The policies of an evaluation of its own have names of their own, and those of a run may be checkpoints of it.
    of_runs = {each.resolve().parents[1] for each in folders} <= {each.resolve() for each in runs.values()}
    several = len(runs) > 1 and of_runs
    found, damaged = reading.read_compared(folders, several=several) if folder else ([None], {})
    left_out = [f"Evaluation {place} is damaged and left out: {reason}" for place, reason in damaged.items()]
    page = writing.write_report(
        output, runs=runs, evaluation=found[0], title="Breadth report", samplings=found[1:], left_out=left_out
    )
    shown = [str(each) for each in folders if each not in damaged]
    for line in (*left_out, f"evaluation {', '.join(shown or ['none'])}", f"wrote {page}"):
        log(line)
    sending.copy_report(page, [*runs.values(), *folders], log)
    if options.output is None and len(options.runs) == 1 and is_url(options.runs[0]):
        files = tuple(path.name for path in page.parent.glob(f"{page.stem}*"))
        copy_now(page.parent, options.runs[0], files, log)


def default_output(given: Sequence[str], runs: Mapping[str, Path], evaluation: Path | None) -> Path:
    """Return the file of the page: `report.html` in the directory of one run, or of an evaluation without runs.

    The page of several runs lies beside the first and has all their names, and a digest of their directories unless the
    names tell all of it, so that it never replaces that of others.

    Args:
        given: the runs as the user named them; beside a remote run, the page lies in the working directory.
        runs: their local directories, by name.
    """
    if len(runs) <= 1:
        [folder] = runs.values() or [evaluation or Path()]
        return folder / "report.html"
    folders = [folder.resolve() for folder in runs.values()]
    stem = f"report-{'-'.join(runs)}"
    remote, apart = any(map(is_url, given)), len({folder.parent for folder in folders}) > 1
    # The names alone would be those of other runs too: of `a` and `b-c`, as of `a-b` and `c`.
    if remote or apart or len(stem) > NAMES_LIMIT or any("-" in name for name in runs):
        digest = hashlib.sha256("\n".join(map(str, folders)).encode()).hexdigest()[:8]
        stem = f"{stem[:NAMES_LIMIT]}-{digest}"
    place = Path() if remote else next(iter(runs.values())).parent
    return place / f"{stem}.html"
