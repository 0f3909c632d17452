"""Write docs/study/method_comparison.md and its figure from the data of `method_comparison.py`. Seeds are pooled.

Pooled means: Pass@k of a method at a prompt is its mean over the seeds; intervals are paired over prompts.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.report.plots import Curve, Panel, draw
from orchestrator.watch.bootstrap import Interval, interval, resample
from orchestrator.watch.frontier import BaseCurve, Placement, line, place
from orchestrator.watch.passk import pass_at_k

DOCS = Path(__file__).resolve().parents[2] / "docs"
DATA = DOCS / "study" / "method_comparison.json"
PAGE = DOCS / "study" / "method_comparison.md"
FIGURE = DOCS / "figures" / "method-comparison-{task}.png"
TEMPLATE = Path(__file__).with_name("method_comparison_page.md")
"""Text of the page, with placeholders for its tables and findings."""
FIGURE_K = 16


@dataclass(frozen=True)
class Result:
    """One method on one task, its seeds pooled."""

    passes: dict[int, np.ndarray]
    """Pass@k per prompt [P], mean over seeds."""
    places: dict[int, Placement]
    changes: dict[int, Interval]
    """Pass@k minus that of the base at temperature 1, paired over prompts."""
    seeds: list[float]
    """Pass@1 of each seed."""
    distinct: float
    """Distinct right answers per prompt."""


def passes(correct: list[int], answers: int, ks: list[int]) -> dict[int, np.ndarray]:
    """Return Pass@k of each prompt [P]."""
    return {k: np.array([pass_at_k(answers, c, k) for c in correct]) for k in ks}


def frontier(task: dict[str, Any]) -> BaseCurve:
    """Return the curve of the base over its temperatures."""
    by_setting = [passes(correct, task["answers"], task["ks"]) for correct in task["base"].values()]
    return BaseCurve(
        temperatures=tuple(map(float, task["base"])),
        passes={k: np.stack([of_setting[k] for of_setting in by_setting]) for k in task["ks"]},
    )


def results(task: dict[str, Any]) -> dict[str, Result]:
    """Return the result of each method, in the order of the data."""
    base, found = frontier(task), {}
    for method in dict.fromkeys(record["method"] for record in task["runs"]):
        records = [record for record in task["runs"] if record["method"] == method]
        by_seed = [passes(record["correct"], task["answers"], task["ks"]) for record in records]
        pooled = {k: np.mean([of_seed[k] for of_seed in by_seed], axis=0) for k in task["ks"]}
        found[method] = Result(
            passes=pooled,
            places={k: place(pooled, base, k) for k in task["ks"]},
            changes={k: change(pooled[k] - base.passes[k][base.temperatures.index(1.0)]) for k in task["ks"]},
            seeds=[float(of_seed[1].mean()) for of_seed in by_seed],
            distinct=float(np.mean([record["distinct"] for record in records])),
        )
    return found


def change(differences: np.ndarray) -> Interval:
    """Return the mean of paired differences [P] with its interval."""
    draws = resample(len(differences)) / len(differences)
    return interval(float(differences.mean()), draws @ differences, len(differences))


def table(task: dict[str, Any]) -> str:
    """Return Pass@k, the change since the base and the word, one row per method."""
    ks = task["ks"]
    rows = [["", *(f"Pass@{k}" for k in ks), "distinct right", "Pass@1 of the seeds"]]
    rows.append(["---", *["---"] * len(ks), "---", "---"])
    for temperature, correct in task["base"].items():
        values = passes(correct, task["answers"], ks)
        distinct = f"{task['base_distinct']:.2f}" if float(temperature) == 1 else ""
        rows.append([f"base, T = {temperature}", *(f"{values[k].mean():.3f}" for k in ks), distinct, ""])
    for method, result in results(task).items():
        cells = [_cell(result, k) for k in ks]
        seeds = ", ".join(f"{value:.2f}" for value in result.seeds)
        rows.append([f"`{method}`", *cells, f"{result.distinct:.2f}", seeds])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(result: Result, k: int) -> str:
    value, shift, word = result.passes[k].mean(), result.changes[k], result.places[k].word
    mark = "**" if word == "beyond" else ""
    return f"{value:.3f} ({shift.low:+.2f} to {shift.high:+.2f}) {mark}{word}{mark}"


def findings(task: dict[str, Any]) -> str:
    """Return what the table shows, as a list."""
    found = results(task)
    everywhere = [m for m, r in found.items() if all(p.word == "beyond" for p in r.places.values())]
    nowhere = [m for m, r in found.items() if not any(p.word == "beyond" for p in r.places.values())]
    lines = [f"Beyond the base at other temperatures at every k: {_names(everywhere)}.", f"At no k: {_names(nowhere)}."]
    for k in task["ks"][1:]:
        rose = [m for m, r in found.items() if r.changes[k].low > 0]
        fell = [m for m, r in found.items() if r.changes[k].high < 0]
        lines.append(f"Pass@{k} rose in {_names(rose)}; it fell in {_names(fell)}.")
    return "\n".join(f"- {text}" for text in lines)


def _names(methods: list[str]) -> str:
    return ", ".join(f"`{method}`" for method in methods) or "none"


def figure(task: dict[str, Any], path: Path) -> None:
    """Draw Pass@1 against Pass@k: the frontier of the base and a point per method."""
    k = _figure_k(task)
    base = line(frontier(task), k)
    curves = [
        Curve(name="base, all temperatures", style=0, x=base.pass_1, y=base.pass_k, low=base.low, high=base.high),
        *(
            Curve(
                name=method,
                style=1 + number,
                x=[float(result.passes[1].mean())],
                y=[float(result.passes[k].mean())],
                labels=[method],
                marked=True,
                joined=False,
            )
            for number, (method, result) in enumerate(results(task).items())
        ),
    ]
    title = f"Pass@1 against Pass@{k}, seeds pooled"
    draw([Panel(title=title, x_label="Pass@1", y_label=f"Pass@{k}", curves=curves, whole_x=False)], path)


def _figure_k(task: dict[str, Any]) -> int:
    return FIGURE_K if FIGURE_K in task["ks"] else max(task["ks"])


def page(data: dict[str, Any]) -> str:
    """Return the text of the page."""
    sections = []
    for name, task in data.items():
        seeds = sorted({record["seed"] for record in task["runs"]})
        seconds = np.median([record["seconds"] for record in task["runs"]])
        prompts = len(next(iter(task["base"].values())))
        sections.append(
            f"## {name}\n\n"
            f"{prompts} held-out prompts, {task['answers']} answers each; {task['steps']} steps of "
            f"{task['prompts_per_step']} prompts with {task['answers_per_prompt']} answers; seeds "
            f"{', '.join(map(str, seeds))}; {seconds:.0f} s a run on one core (median). Settings: "
            f"{', '.join(f'`{word}`' for word in task['settings'])}.\n\n"
            f"{findings(task)}\n\n{table(task)}\n\n"
            f"![Pass@1 against Pass@{_figure_k(task)} on {name}](../figures/{FIGURE.name.format(task=name)})\n"
        )
    return TEMPLATE.read_text().replace("{results}", "\n".join(sections).rstrip())


def write_page() -> Path:
    """Write the page and its figures."""
    data = json.loads(DATA.read_text())
    PAGE.write_text(page(data))
    for name, task in data.items():
        figure(task, FIGURE.with_name(FIGURE.name.format(task=name)))
    return PAGE
