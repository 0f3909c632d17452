"""Folders of evaluations: `<run directory>/evaluations/NAME`. An evaluation never replaces another one."""

import json
from collections.abc import Iterable
from contextlib import suppress
from datetime import date
from itertools import chain, count
from pathlib import Path

from configs.checks import require
from orchestrator.report.inputs import RESULTS

EVALUATIONS = "evaluations"


def check_name(run_dir: Path, name: str) -> None:
    """Raise ValueError if the run has an evaluation of this name, before an hour of answers is sampled for it."""
    taken = bool(name) and (run_dir / EVALUATIONS / name).exists()
    require(not taken, "evaluate.name", f"must be new in {str(run_dir / EVALUATIONS)!r}", name)


def new_folder(run_dir: Path, name: str) -> Path:
    """Make the folder of a new evaluation.

    Args:
        name: of the evaluation; empty, or taken since `check_name`: today's date and a number, such as `2026-01-31-2`.
    """
    root = run_dir / EVALUATIONS
    for candidate in chain([name] if name else [], (f"{date.today().isoformat()}-{number}" for number in count(1))):
        with suppress(FileExistsError):
            (root / candidate).mkdir(parents=True)
            return root / candidate
    raise AssertionError("count() has no end")


def latest(folders: Iterable[Path]) -> Path | None:
    """Return the folder of the latest evaluation of runs, by its date; None if none has ended.

    Args:
        folders: run directories.
    """
    found = [path for folder in folders for path in folder.glob(f"{EVALUATIONS}/*/{RESULTS}")]
    return max(found, key=_date).parent if found else None


def latest_of_each(folders: Iterable[Path]) -> list[Path]:
    """Return the folder of the latest evaluation of every run that has one, the latest first."""
    found = [folder for run in folders if (folder := latest([run]))]
    return sorted(found, key=lambda folder: _date(folder / RESULTS), reverse=True)


def _date(results: Path) -> tuple[str, str]:
    try:
        return str(json.loads(results.read_text())["about"]["date"]), results.parent.name
    except (OSError, ValueError, KeyError, TypeError):
        return "", results.parent.name
