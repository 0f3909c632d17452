"""Write the report of runs and an evaluation: Pass@1 and Pass@k, as figures and as one self-contained HTML file."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.report import page as report_page
from orchestrator.report.divergence import MAP, REWARD_KL, map_panels, reward_kl_panels, reward_kl_rows
from orchestrator.report.evaluation import Evaluation
from orchestrator.report.inputs import run_facts
from orchestrator.report.plots import Curve, Panel, draw
from orchestrator.report.verdicts import beyond_sharpening, survival
from orchestrator.watch.frontier import Line, line
from orchestrator.watch.logbook import METRICS, read_records
from orchestrator.watch.passk import lost_and_gained

KL_METRICS = ("heldout/kl_to_base", "kl_reference_per_trajectory")
"""The KL of a run is the first of these metrics that it recorded."""


@dataclass(frozen=True, kw_only=True)
class _Sources:
    """The data of a report."""

    runs: Mapping[str, Path]
    records: Mapping[str, list[dict[str, Any]]]
    evaluation: Evaluation | None

    def style(self, name: str) -> int:
        """Return the number of the line style of a run or evaluation; 0 is the base."""
        evaluated = self.evaluation.names if self.evaluation else []
        base = self.evaluation.base if self.evaluation else None
        names = [n for n in dict.fromkeys([*self.records, *evaluated]) if n != base]
        return 0 if name == base else 1 + names.index(name)


def write_report(
    output: Path,
    *,
    runs: Mapping[str, Path],
    evaluation: Evaluation | None,
    title: str,
    samplings: Sequence[Evaluation] = (),
) -> Path:
    """Write the HTML file `output`, with its figures embedded, and the same figures as PNG files beside it.

    The page has a note for every part of a run or evaluation that is missing.

    Args:
        runs: run directories by name.
        samplings: evaluations of the same policies under further samplings, shown as tables.

    Returns:
        `output`.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    notes: list[str] = []
    records = {name: _read(name, run_dir, notes) for name, run_dir in runs.items()}
    sources = _Sources(runs=runs, records=records, evaluation=evaluation)
    notes += _notes(evaluation)
    headline, reward_kl, *others = _figures(output, sources)
    sections = [
        _first_screen(sources),
        headline,
        *(report_page.results(shown) for shown in (evaluation, *samplings)),
        reward_kl,
        report_page.reward_kl(reward_kl_rows(evaluation) if evaluation else None),
        *others,
        report_page.first_prompts(evaluation),
        *_lost_and_gained_problems(sources),
        *(report_page.settings(name, run_dir / "config.yaml") for name, run_dir in runs.items()),
    ]
    output.write_bytes(report_page.page(title, notes, sections).encode("utf-8", "replace"))
    return output


def _read(name: str, run_dir: Path, notes: list[str]) -> list[dict[str, Any]]:
    records = read_records(run_dir / METRICS)
    if not records:
        notes.append(
            f"Run {name}: {run_dir / METRICS} is missing or has no records, so the run has no curves over steps."
        )
    return records


def _notes(evaluation: Evaluation | None) -> list[str]:
    if evaluation is None:
        return ["There is no evaluation, so there is no table and no curve of Pass@k: run `breadth evaluate`."]
    return [
        f"Evaluation {name} at temperature {t:g}: {measurement.ungraded} answers could not be graded and are left out."
        for name, by_temperature in evaluation.measurements.items()
        for t, measurement in by_temperature.items()
        if measurement.ungraded
    ]


def _first_screen(sources: _Sources) -> str:
    evaluation, facts = sources.evaluation, []
    if evaluation:
        at_base = evaluation.at_base
        facts = [
            f"{len(at_base.prompts)} held-out prompts of {evaluation.about['task']}, {at_base.answers} answers each, "
            f"{evaluation.conditions}",
            f"base: {evaluation.about['paths'][evaluation.base]}",
        ]
    facts += [run_facts(name, folder) for name, folder in sources.runs.items()]
    facts += [str(evaluation.about["date"])] if evaluation else []
    answers = {}
    if evaluation and len(evaluation.names) > 1:
        answers["Did Pass@k survive?"] = survival(evaluation)
        answers["Was anything learned beyond sharpening?"] = beyond_sharpening(evaluation)
    return report_page.first_screen(facts, answers)


def _figures(output: Path, sources: _Sources) -> list[str]:
    """Draw the figures and return their sections; a figure without data has a note instead."""
    k = sources.evaluation.figure_k if sources.evaluation else "k"
    plans = (
        ("frontier", f"Pass@1 against Pass@{k}", _frontier(sources), report_page.FRONTIER),
        ("reward-kl", "Reward against KL", reward_kl_panels(sources.evaluation, sources.style), REWARD_KL),
        ("map", "Map of the policies", map_panels(sources.evaluation, sources.style), MAP),
        ("pass-at-k", "Pass@k against k", _pass_against_k(sources), report_page.PASS_AGAINST_K),
        ("pass-over-steps", "Pass@1 and Pass@k over steps", _pass_over_steps(sources), report_page.PASS_OVER_STEPS),
        ("training", "Reward, entropy and KL over steps", _training(sources), report_page.TRAINING),
    )
    sections = []
    for stem, heading, panels, caption in plans:
        filled = [panel for panel in panels if panel.curves]
        path = draw(filled, output.with_name(f"{output.stem}-{stem}.png")) if filled else None
        sections.append(report_page.figure(heading, path, caption))
    return sections


def _frontier(sources: _Sources) -> list[Panel]:
    """Return Pass@1 against Pass@k: the base at all temperatures as a line, every policy over its own."""
    evaluation = sources.evaluation
    if evaluation is None:
        return []
    k, base = evaluation.figure_k, evaluation.base
    curves = []
    if evaluation.frontier is not None:
        curves.append(_curve_of_base(f"{base}, all temperatures", line(evaluation.frontier, k), banded=True))
    if k in evaluation.power:
        curves.append(_curve_of_base(f"{base}, power distribution", line(evaluation.power[k], k), banded=False))
    for name, by_temperature in evaluation.summaries.items():
        points = [(t, v["pass@1"], v[f"pass@{k}"]) for t, v in sorted(by_temperature.items(), reverse=True)]
        points = [(t, one, many) for t, one, many in points if one.prompts and many.prompts]
        curve = Curve(
            name=name,
            style=sources.style(name),
            x=[one.value for _, one, _ in points],
            y=[many.value for _, _, many in points],
            labels=[f"{t:g}" for t, _, _ in points],
            joined=name != base,
            marked=True,
        )
        curves.append(curve)
    title = f"Pass@1 against Pass@{k} (labels: temperature)"
    return [Panel(title=title, x_label="Pass@1", y_label=f"Pass@{k}", curves=curves, whole_x=False)]


def _curve_of_base(name: str, points: Line, banded: bool) -> Curve:
    low, high = (points.low, points.high) if banded else ([], [])
    return Curve(name=name, style=0, x=points.pass_1, y=points.pass_k, low=low, high=high, dashed=not banded)


def _pass_against_k(sources: _Sources) -> list[Panel]:
    evaluation = sources.evaluation
    curves = []
    for name in evaluation.names if evaluation else []:
        assert evaluation is not None
        values = evaluation.summaries[name][evaluation.temperatures[0]]
        points = [(k, values[f"pass@{k}"]) for k in sorted(set(evaluation.ks)) if values[f"pass@{k}"].prompts]
        if points:
            intervals = [interval for _, interval in points]
            curve = Curve(
                name=name,
                style=sources.style(name),
                x=[k for k, _ in points],
                y=[interval.value for interval in intervals],
                low=[interval.low for interval in intervals],
                high=[interval.high for interval in intervals],
                marked=True,
            )
            curves.append(curve)
    label = "Pass@k (fraction of problems)"
    return [Panel(title="Pass@k", x_label="k (answers per problem)", y_label=label, curves=curves, log2_x=True)]


def _pass_over_steps(sources: _Sources) -> list[Panel]:
    """Return panels of Pass@k for the smallest and the largest measured k, and of the margin against the frontier."""
    recorded = {key for records in sources.records.values() for record in records for key in record}
    names = [key.removeprefix("heldout/pass@") for key in recorded if key.startswith("heldout/pass@")]
    ks = sorted(int(name) for name in names if name.isdigit())
    evaluation = sources.evaluation
    at_base = evaluation.summaries[evaluation.base][evaluation.temperatures[0]] if evaluation else {}
    panels = []
    for k in dict.fromkeys(ks[:1] + ks[-1:]):
        interval = at_base.get(f"pass@{k}")
        panel = Panel(
            title=f"Pass@{k}",
            x_label="step",
            y_label=f"Pass@{k} (fraction of problems)",
            curves=list(_over_steps(sources, (f"heldout/pass@{k}",), marked=True)),
            base_value=interval.value if interval and interval.prompts else None,
            base_label=f"{evaluation.base if evaluation else 'base'} (evaluated)",
        )
        panels.append(panel)
    for k in ks[-1:]:
        panel = Panel(
            title=f"Beyond sharpening, Pass@{k}",
            x_label="step",
            y_label="margin against the base",
            curves=list(_over_steps(sources, (f"heldout/beyond_sharpening/pass@{k}",), marked=True)),
        )
        panels.append(panel)
    return panels


def _training(sources: _Sources) -> list[Panel]:
    slots = (
        ("Reward", "mean reward", ("reward",)),
        ("Entropy", "entropy (nats per token)", ("entropy",)),
        ("KL to the base", "KL (nats per answer)", KL_METRICS),
    )
    return [
        Panel(title=title, x_label="step", y_label=label, curves=list(_over_steps(sources, metrics, marked=False)))
        for title, label, metrics in slots
    ]


def _over_steps(sources: _Sources, metrics: Sequence[str], marked: bool) -> Iterable[Curve]:
    """Yield a curve for every run: the first of `metrics` that it recorded, at the steps where it is a number."""
    for name, records in sources.records.items():
        for metric in metrics:
            points = [record for record in records if isinstance(record.get(metric), int | float)]
            if not points:
                continue
            ends = [
                [p[f"{metric}/{end}"] for p in points if p.get(f"{metric}/{end}") is not None]
                for end in ("low", "high")
            ]
            complete = all(len(values) == len(points) for values in ends)
            yield Curve(
                name=name,
                style=sources.style(name),
                x=[p["step"] for p in points],
                y=[p[metric] for p in points],
                low=ends[0] if complete else (),
                high=ends[1] if complete else (),
                marked=marked or metric.startswith("heldout/"),
                noisy=not marked,
            )
            break


def _lost_and_gained_problems(sources: _Sources) -> list[str]:
    evaluation = sources.evaluation
    return [
        report_page.lost_and_gained_problems(
            name, *lost_and_gained(evaluation.at_base, evaluation.measurements[name][evaluation.temperatures[0]])
        )
        for name in (evaluation.names[1:] if evaluation else [])
        if evaluation is not None
    ]
