"""What the report and the result table are made from, read back from disk."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from orchestrator.passk import Interval, Measurement

COLUMNS_AFTER_PASS = ("maj@n", "retention", "expansion", "distinct_correct")


def runs_in(folders: Sequence[Path]) -> dict[str, Path]:
    """Name -> run directory. Raises ValueError on a folder without metrics.jsonl or two of one name."""
    for folder in folders:
        if not (folder / "metrics.jsonl").is_file():
            raise ValueError(f"RUN: must be a run directory with a metrics.jsonl, got {str(folder)!r}")
    names = {folder.resolve().name: folder for folder in folders}
    if len(names) != len(folders):
        raise ValueError(f"RUN: directory names must differ, got {[str(folder) for folder in folders]}")
    return names


def read_evaluation(folder: Path) -> tuple[dict[str, Measurement], str, list[int]]:
    """The measurements of an evaluation in its order, the base's name (the first), and the ks it reported."""
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
    """One row per policy, one column per value with its 95 % interval."""
    first = next(iter(summaries.values()))
    columns = [name for name in first if name.startswith("pass@")]
    columns += [name for name in COLUMNS_AFTER_PASS if any(name in values for values in summaries.values())]
    table = Table("policy", *columns, title="Held-out prompts, 95 % bootstrap intervals over prompts")
    for policy, values in summaries.items():
        table.add_row(policy, *(_cell(values.get(name)) for name in columns))
    return table


def _cell(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{interval.value:.3f}\n[dim]{interval.low:.2f}-{interval.high:.2f}[/dim]"
