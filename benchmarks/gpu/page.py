"""The table of a check on a GPU, and the section of docs/performance.md with it, which only a published check has.

`python -m benchmarks.gpu.page FILE` publishes the check.json of a check that ran elsewhere.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.machine import ROOT

PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = (
    "<!-- begin of the check on a GPU, by python -m benchmarks.gpu.check --publish -->",
    "<!-- end of the check -->",
)
NOT_SHOWN = ("so far", "lines", "refused", "planned peak", "last step")
"""Ends of the names of values that are too long for a table."""


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown tables: stages, phases, values and comparisons with tolerances."""
    about = results["about"]
    versions = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
    size = "with the smallest sizes, which say nothing of speed, " if about["small"] else ""
    parts = [
        f"`python -m benchmarks.gpu.check` {size}on {about['machine']}, {about['date']}, commit {about['commit']}, in "
        f"{about['seconds']:.0f} s. {versions}.",
        _grid(
            ("stage", "outcome", "s"),
            ((s["stage"], s["outcome"], _number(s.get("seconds"))) for s in results["stages"]),
        ),
    ]
    for stage in results["stages"]:
        parts += _of_stage(stage)
    return "\n\n".join(parts)


def _of_stage(stage: dict[str, Any]) -> Iterator[str]:
    phases, values, checks = (stage.get(kind) or {} for kind in ("phases", "values", "checks"))
    if not (phases or values or checks):
        return
    yield f"### On a GPU: {stage['stage']}"
    if phases:
        columns = ("seconds", "gb_before", "gb_peak", "gb_reserved")
        rows = ((name, *(_number(phase.get(column)) for column in columns)) for name, phase in phases.items())
        yield _grid(("phase", "s", "GB before", "GB at its peak", "GB reserved"), rows)
    short = {name: value for name, value in values.items() if not name.endswith(NOT_SHOWN)}
    if short:
        yield _grid(("value", ""), ((name, _number(value)) for name, value in short.items()))
    if checks:
        rows = ((name, _number(c["value"]), _bounds(c), "yes" if c["met"] else "**no**") for name, c in checks.items())
        yield _grid(("comparison", "found", "allowed", "met"), rows)
    failures = [*stage.get("failures", {}), *(["the stage"] if stage.get("error") else [])]
    if failures:
        yield f"Failed: {', '.join(failures)}."


def _grid(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", "| --- |" + " --- |" * (len(head) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _bounds(check: dict[str, Any]) -> str:
    above = f"at most {_number(check['at_most'])}"
    return f"{_number(check['at_least'])} to {_number(check['at_most'])}" if "at_least" in check else above


def _number(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_number(one)}" for name, one in value.items())
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def write_page(results: dict[str, Any], page: Path = PAGE) -> None:
    """Put the section "On a GPU" with these results at the end of the page, in place of one that is there.

    Raises:
        ValueError: the results are of a CPU or of the smallest sizes.
    """
    about = results["about"]
    if about["small"] or about["machine"] == "a CPU":
        raise ValueError("only a check on a GPU at full size is published")
    before, _, rest = page.read_text().partition(BEGIN)
    _, marker, after = rest.partition(END)
    assert bool(rest) == bool(marker), f"{page} has one of the markers {BEGIN} and {END} alone"
    text = f"{BEGIN}\n\n## On a GPU\n\n{table(results)}\n\n{END}"
    page.write_text(f"{before.rstrip()}\n\n{text}{after or chr(10)}")


if __name__ == "__main__":
    write_page(json.loads(Path(sys.argv[1]).read_text()))
