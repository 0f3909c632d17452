"""Write docs/study/method_comparison.md and its figures from the data of `method_comparison.py`. Seeds are pooled.

Pooled means: Pass@k of a method at a prompt is its mean over the seeds; intervals are paired over prompts.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from method_families import CONTROL, FAMILIES

from orchestrator.report.plots import Curve, Panel, draw
from orchestrator.watch.bootstrap import Interval, interval, resample
from orchestrator.watch.frontier import BaseCurve, Placement, line, place
from orchestrator.watch.passk import pass_at_k

DOCS = Path(__file__).resolve().parents[2] / "docs"
DATA = DOCS / "study" / "method_comparison.json"
PAGE = DOCS / "study" / "method_comparison.md"
FIGURE = DOCS / "figures" / "method-comparison-{task}-{family}.png"
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


def base_table(task: dict[str, Any]) -> str:
    """Return Pass@k of the base at each temperature."""
    rows = []
    for temperature, correct in task["base"].items():
        values = passes(correct, task["answers"], task["ks"])
        distinct = f"{task['base_distinct']:.2f}" if float(temperature) == 1 else ""
        rows.append([f"base, T = {temperature}", *(f"{values[k].mean():.3f}" for k in task["ks"]), distinct])
    return _table(["", *(f"Pass@{k}" for k in task["ks"]), "distinct right"], rows)


def table(found: dict[str, Result], ks: list[int]) -> str:
    """Return Pass@k, the change since the base and the word, one row per method."""
    rows = []
    for method, result in found.items():
        seeds = ", ".join(f"{value:.2f}" for value in result.seeds)
        rows.append([f"`{method}`", *(_cell(result, k) for k in ks), f"{result.distinct:.2f}", seeds])
    return _table(["", *(f"Pass@{k}" for k in ks), "distinct right", "Pass@1 of the seeds"], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _cell(result: Result, k: int) -> str:
    value, shift, word = result.passes[k].mean(), result.changes[k], result.places[k].word
    mark = "**" if word == "beyond" else ""
    return f"{value:.3f} ({shift.low:+.2f} to {shift.high:+.2f}) {mark}{word}{mark}"


def findings(found: dict[str, Result], ks: list[int]) -> str:
    """Return what a table shows, as a list."""
    everywhere = [m for m, r in found.items() if all(p.word == "beyond" for p in r.places.values())]
    nowhere = [m for m, r in found.items() if not any(p.word == "beyond" for p in r.places.values())]
    lines = [f"Beyond the base at other temperatures at every k: {_names(everywhere)}.", f"At no k: {_names(nowhere)}."]
    for k in ks[1:]:
        rose = [m for m, r in found.items() if r.changes[k].low > 0]
        fell = [m for m, r in found.items() if r.changes[k].high < 0]
        lines.append(f"Pass@{k} rose in {_names(rose)}; it fell in {_names(fell)}.")
    return "\n".join(f"- {text}" for text in lines)


def _names(methods: list[str]) -> str:
    return ", ".join(f"`{method}`" for method in methods) or "none"


def figure(task: dict[str, Any], found: dict[str, Result], path: Path) -> None:
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
                marked=True,
                joined=False,
            )
            for number, (method, result) in enumerate(found.items())
        ),
    ]
    title = f"Pass@1 against Pass@{k}, seeds pooled"
    draw([Panel(title=title, x_label="Pass@1", y_label=f"Pass@{k}", curves=curves, whole_x=False)], path)


def _figure_k(task: dict[str, Any]) -> int:
    return FIGURE_K if FIGURE_K in task["ks"] else max(task["ks"])


def families(task: dict[str, Any]) -> dict[str, dict[str, Result]]:
    """Return the results of a task by family; each has the control, and none is empty."""
    found = results(task)
    control = {CONTROL: found[CONTROL]} if CONTROL in found else {}
    members = {family: {name: found[name] for name in names if name in found} for family, names in FAMILIES.items()}
    return {family: control | of for family, of in members.items() if of}


def page(data: dict[str, Any]) -> str:
    """Return the text of the page."""
    return TEMPLATE.read_text().replace("{results}", "\n".join(section(name, data[name]) for name in data).rstrip())


def section(name: str, task: dict[str, Any]) -> str:
    """Return the part of the page about one task."""
    seeds = sorted({record["seed"] for record in task["runs"]})
    text = (
        f"## {name}\n\n"
        f"{len(task['base']['1.0'])} held-out prompts, {task['answers']} answers each; {task['steps']} steps of "
        f"{task['prompts_per_step']} prompts with {task['answers_per_prompt']} answers; seeds "
        f"{', '.join(map(str, seeds))}. Settings: "
        f"{', '.join(f'`{word}`' for word in task['settings'])}.\n\n{base_table(task)}\n"
    )
    for family, found in families(task).items():
        link = f"../figures/{figure_path(name, family).name}"
        text += (
            f"\n### {name}: {family}\n\n{findings(found, task['ks'])}\n\n{table(found, task['ks'])}\n\n"
            f"![Pass@1 against Pass@{_figure_k(task)} on {name}: {family}]({link})\n"
        )
    return text


def figure_path(name: str, family: str) -> Path:
    """Return the path of the figure of a family on a task."""
    return FIGURE.with_name(FIGURE.name.format(task=name, family=_slug(family)))


def _slug(family: str) -> str:
    return "-".join(re.findall("[a-z]+", family.lower()))


def write_page() -> Path:
    """Write the page and its figures."""
    data = json.loads(DATA.read_text())
    PAGE.write_text(page(data))
    for name, task in data.items():
        for family, found in families(task).items():
            figure(task, found, figure_path(name, family))
    return PAGE
