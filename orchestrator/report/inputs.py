"""Read runs and evaluations from disk for the report, and format the result table."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from orchestrator.watch.passk import Interval, Measurement

ROWS_AFTER_PASS = ("maj@n", "retention", "expansion", "distinct_correct")


def named_runs(folders: Sequence[Path]) -> dict[str, Path]:
    """Return run directories by name. Raises ValueError if one has no metrics.jsonl, or if two have the same name."""
    for folder in folders:
        if not (folder / "metrics.jsonl").is_file():
            raise ValueError(f"RUN: must be a run directory with a metrics.jsonl, got {str(folder)!r}")
    names = {folder.resolve().name: folder for folder in folders}
    if len(names) != len(folders):
        raise ValueError(f"RUN: directory names must differ, got {[str(folder) for folder in folders]}")
    return names


def read_evaluation(folder: Path) -> tuple[dict[str, Measurement], str, list[int]]:
    """Read the output directory of `breadth evaluate`.

    Returns:
        The measurements by name, in their order; the name of the base, which is the first; and every k of Pass@k.

    Raises:
        ValueError: the directory has no results.json.
    """
    results = folder / "results.json"
    if not results.is_file():
        raise ValueError(f"--evaluation: must be an output directory of `breadth evaluate`, got {str(folder)!r}")
    names: dict[str, dict[str, float]] = json.loads(results.read_text())
    measurements = {
        name: Measurement.from_json((folder / "measurements" / f"{name}.json").read_text()) for name in names
    }
    base = next(iter(names))
    ks = [int(key.removeprefix("pass@")) for key in names[base] if key.startswith("pass@")]
    return measurements, base, ks


def results_table(summaries: Mapping[str, Mapping[str, Interval]]) -> Table:
    """Return a table with one row per value and one column per policy. Values that no policy has are left out."""
    first = next(iter(summaries.values()))
    rows = [name for name in first if name.startswith("pass@")]
    rows += [name for name in ROWS_AFTER_PASS if name in first]
    table = Table("", *summaries, title="Held-out prompts, with 95 % bootstrap intervals over prompts")
    for name in rows:
        cells = [values.get(name) for values in summaries.values()]
        if any(cell is not None and math.isfinite(cell.value) for cell in cells):
            table.add_row(name, *map(_cell, cells))
    return table


def _cell(interval: Interval | None) -> str:
    if interval is None or not math.isfinite(interval.value):
        return "-"
    return f"{interval.value:.3f}\n[dim]{interval.low:.2f} to {interval.high:.2f}[/dim]"
