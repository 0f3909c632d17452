"""Read the inputs of a report: names and facts of the run directories, and whether there is an evaluation."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

RESULTS = "results.json"
"""File of an evaluation."""
EVALUATIONS, CHECKPOINTS = "evaluations", "checkpoints"
"""Folders of a run."""


def named_runs(folders: Sequence[Path]) -> dict[str, Path]:
    """Return run directories by name. Raises ValueError if one has no metrics.jsonl, or if two have the same name."""
    for folder in folders:
        if not (folder / "metrics.jsonl").is_file():
            raise ValueError(f"RUN: must be a run directory with a metrics.jsonl, got {str(folder)!r}")
    names = {folder.resolve().name: folder for folder in folders}
    if len(names) != len(folders):
        raise ValueError(f"RUN: directory names must differ, got {[str(folder) for folder in folders]}")
    return names


def check_evaluation(folder: Path) -> None:
    """Raise ValueError unless `breadth evaluate` wrote to this directory."""
    if not (folder / RESULTS).is_file():
        raise ValueError(f"--evaluation: must be an output directory of `breadth evaluate`, got {str(folder)!r}")


def beside(folder: Path | None, name: str) -> dict[str, Any]:
    """Return a JSON file of an evaluation beside its results; empty if there is none, or one that is not JSON data."""
    try:
        found = json.loads((folder / name).read_text()) if folder else None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def run_facts(name: str, run_dir: Path, done: int | None) -> str:
    """Return what a run was in a few words: its method, steps and batch; only its name without a config.yaml.

    Args:
        done: its last recorded step; None: it has no records.
    """
    try:
        settings = yaml.safe_load((run_dir / "config.yaml").read_text(errors="replace"))
        prompts, answers, planned = settings["groups_per_step"], settings["sampling"]["group_size"], settings["steps"]
        steps = f"{planned}" if done is None or done == planned else f"{done} of {planned}"
        return f"{name}: method {settings['method']}, {steps} steps of {prompts} x {answers} answers"
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return name


def place_words(path: str) -> str:
    """Return a short name of a directory: a checkpoint or an evaluation after its run, else its own name."""
    place = Path(path)
    place = place.parent if place.name == "policy" else place
    for folder in (EVALUATIONS, CHECKPOINTS):
        if folder in place.parts[1:-1]:
            at = place.parts.index(folder, 1)
            return " ".join((place.parts[at - 1], *place.parts[at + 1 :]))
    return place.name
