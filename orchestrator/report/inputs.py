"""Read the inputs of a report: names and facts of the run directories, and whether there is an evaluation."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

RESULTS = "results.json"
"""File of an evaluation."""


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


def run_facts(name: str, run_dir: Path) -> str:
    """Return what a run was in a few words: its method, steps and batch; only its name without a config.yaml."""
    try:
        settings = yaml.safe_load((run_dir / "config.yaml").read_text(errors="replace"))
        prompts, answers = settings["groups_per_step"], settings["sampling"]["group_size"]
        return f"{name}: method {settings['method']}, {settings['steps']} steps of {prompts} x {answers} answers"
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return name
