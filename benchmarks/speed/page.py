"""Write docs/performance.md between its markers, and its figure, from a file of results."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from benchmarks.speed.plan import ROOT
from benchmarks.speed.result import Row

DATA = ROOT / "docs" / "performance.json"
PAGE = ROOT / "docs" / "performance.md"
FIGURE = ROOT / "docs" / "figures" / "performance.png"
BEGIN, END = "<!-- begin of the table, by make bench -->", "<!-- end of the table -->"
HEADINGS = {
    "Training steps": ("rollouts", "verifier"),
    "Start": ("start",),
    "Parts beside their limits": ("pipeline", "generation", "publication", "learner", "head"),
    "Padding and scaling": ("packing", "scaling"),
    "Divergence terms": ("divergence",),
    "CPU seconds of each role": ("cpu",),
    "A long run": ("soak",),
}
"""Sections of the page, and the first parts of the names of their rows."""
GRIDS = {
    "Divergence terms": "Seconds of a step with the term (scores of the reference, credit, update) over those without "
    "one. 358k policy, one thread. `sampled`: estimated from sampled tokens; `exact`: over the vocabulary.",
    "CPU seconds of each role": "CPU seconds a step of the 358k policy, 32 x 16 answers. `others`: processes of Ray.",
}
"""Sections that are one grid, and what its values are."""


def number(value: float) -> str:
    """Return a value with three significant digits."""
    if value == 0:
        return "0"
    digits = 2 - len(f"{abs(value):.0f}") + 1 if abs(value) >= 1 else 3
    return f"{value:,.{max(digits, 0)}f}"


def values(of_rounds: Sequence[float]) -> str:
    """Return median and range, such as `430 (420 to 441)`; of one value, the value."""
    median = number(statistics.median(of_rounds))
    return median if len(of_rounds) == 1 else f"{median} ({number(min(of_rounds))} to {number(max(of_rounds))})"


def goal(row: Row) -> str:
    """Return the goal and whether it is met."""
    if row.goal is None:
        return ""
    sign = "at least" if row.higher_is_better else "at most"
    met = {True: "met", False: "**missed**", None: "not measured"}[row.met]
    return f"{sign} {row.goal:g}{f' {row.unit}' if row.compares_ours else ''}: {met}"


def table(rows: Sequence[Row]) -> str:
    """Return the lines of a Markdown table."""
    lines = ["| measure | Breadth | beside it | ratio | goal |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        title = f"{row.title} ({row.unit})" if row.unit else row.title
        other = f"{row.other_name}: {values(row.other)}" if row.other else row.other_name and f"{row.other_name}: -"
        ratio = values(row.ratios) if row.ratios else ""
        lines.append(f"| {title} | {values(row.ours) if row.ours else '-'} | {other} | {ratio} | {goal(row)} |")
    return "\n".join(lines)


def grid(rows: Sequence[Row]) -> str:
    """Return a table with a line per second part of the rows' names and a column per third part."""
    places = {tuple(row.name.split("/")[1:]): row for row in rows}
    lines, columns = (list(dict.fromkeys(place[axis] for place in places)) for axis in (0, 1))
    text = [f"| | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
    for line in lines:
        cells = [values(places[line, column].compared) if (line, column) in places else "" for column in columns]
        text.append(f"| {line} | {' | '.join(cells)} |")
    return "\n".join(text)


def section(heading: str, rows: Sequence[Row]) -> str:
    """Return one section: its table, notes on its rows, and what was not measured."""
    if heading in GRIDS:
        return "\n\n".join([f"### {heading}", GRIDS[heading], grid(rows)])
    remarks = [f"- {row.title}: {text}." for row in rows for text in (row.note, row.reason) if text]
    return "\n\n".join([f"### {heading}", table(rows), *(["\n".join(remarks)] if remarks else [])])


def summary(rows: Sequence[Row]) -> str:
    """Return how many goals are met, and which are not."""
    with_goal = [row for row in rows if row.met is not None]
    missed = [f"{row.title} ({values(row.compared)}, goal {row.goal:g})" for row in with_goal if not row.met]
    text = f"{len(with_goal) - len(missed)} of {len(with_goal)} goals are met."
    return text if not missed else "\n".join([f"{text} Missed:", "", *(f"- {line}" for line in missed)])


def generated(rows: Sequence[Row], about: dict[str, Any]) -> str:
    """Return what stands between the markers."""
    known = [prefix for prefixes in HEADINGS.values() for prefix in prefixes]
    assert all(row.name.split("/")[0] in known or row.reason for row in rows), [row.name for row in rows]
    versions = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
    later = [f"Then `{run['command']}`, {run['date']}, commit {run['commit']}." for run in about.get("later", ())]
    parts = [
        f"`{about['command']}` on {about['machine']}, {about['date']}, commit {about['commit']}, in "
        f"{about['minutes']:.0f} minutes; load before: {about['load']:.2f}. {' '.join([*later, versions])}. "
        "Values are medians over rounds in turns; in brackets the smallest and the largest.",
        summary(rows),
        "![Each row with a goal, as a multiple of its goal](figures/performance.png)",
    ]
    for heading, prefixes in HEADINGS.items():
        of_section = [row for row in rows if row.name.split("/")[0] in prefixes]
        if of_section:
            parts.append(section(heading, of_section))
    failed = [row for row in rows if row.name.split("/")[0] not in known]
    if failed:
        parts.append("\n".join(["### Not measured", "", *(f"- {row.title}: {row.reason}." for row in failed)]))
    return "\n\n".join(parts)


def write_page(rows: Sequence[Row], about: dict[str, Any], page: Path = PAGE, figure: Path = FIGURE) -> None:
    """Replace what stands between the markers of the page, and draw its figure."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, marker, after = rest.partition(END)
    assert marker, f"{page} must have the markers {BEGIN} and {END}"
    page.write_text(f"{before}{BEGIN}\n\n{generated(rows, about)}\n\n{END}{after}")
    draw(rows, figure)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw each row with a goal as a multiple of its goal, on a logarithmic axis; right of 1 it is met."""
    with_goal = [row for row in rows if row.met is not None]
    figure = Figure(figsize=(9.5, 1.2 + 0.32 * len(with_goal)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(reversed(with_goal)):
        assert row.goal is not None
        multiples = sorted(v / row.goal if row.higher_is_better else row.goal / max(v, 1e-9) for v in row.compared)
        colour = "#009E73" if row.met else "#D55E00"
        axes.plot((multiples[0], multiples[-1]), (place, place), color=colour, linewidth=3, alpha=0.4)
        axes.plot(statistics.median(multiples), place, "o" if row.met else "s", color=colour)
    titles = ["\n".join(wrap(row.title.replace("$", r"\$"), 64)) for row in reversed(with_goal)]
    axes.set_yticks(range(len(with_goal)), titles, fontsize=8)
    axes.axvline(1.0, color="#4d4d4d", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("multiple of the goal; right of 1: met")
    axes.grid(axis="x", color="#e3e3e3")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=144)
