"""Write the report of runs and an evaluation: Pass@1 and Pass@k, as figures and as one self-contained HTML file."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.report import page as report_page
from orchestrator.report.plots import Curve, Panel, draw
from orchestrator.watch.logbook import METRICS, read_records
from orchestrator.watch.passk import Interval, Measurement, lost_and_gained, summary

KL_METRICS = ("heldout/kl_to_base", "kl_reference_per_trajectory")
"""The KL of a run is the first of these metrics that it recorded."""


@dataclass(frozen=True, kw_only=True)
class _Sources:
    """The data of a report."""

    records: Mapping[str, list[dict[str, Any]]]
    measurements: Mapping[str, Measurement]
    summaries: Mapping[str, dict[str, Interval]]
    base: str
    ks: Sequence[int]

    def style(self, name: str) -> int:
        """Return the number of the line style of a run or evaluation; 0 is the base."""
        names = [n for n in dict.fromkeys([*self.records, *self.measurements]) if n != self.base]
        return 0 if name == self.base else 1 + names.index(name)


def write_report(
    output: Path,
    *,
    runs: Mapping[str, Path],
    measurements: Mapping[str, Measurement],
    base: str,
    ks: Sequence[int],
    title: str,
) -> Path:
    """Write the HTML file `output`, with its figures embedded, and the same figures as PNG files beside it.

    The page has a note for every part of a run or evaluation that is missing.

    Args:
        runs: run directories by name.
        measurements: evaluations by name, `base` among them.

    Returns:
        `output`.

    Raises:
        ValueError: there are measurements, but none named `base`.
    """
    if measurements and base not in measurements:
        raise ValueError(f"base: must be one of the measurements {sorted(measurements)}, got {base!r}")
    output.parent.mkdir(parents=True, exist_ok=True)
    notes: list[str] = []
    records = {name: _read(name, run_dir, notes) for name, run_dir in runs.items()}
    sources = _Sources(
        records=records,
        measurements=measurements,
        summaries=_summaries(measurements, base, ks, notes),
        base=base,
        ks=ks,
    )
    sections = [
        report_page.results(sources.summaries, base, {name: m.answers for name, m in measurements.items()}),
        *_figures(output, sources),
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


def _summaries(
    measurements: Mapping[str, Measurement], base: str, ks: Sequence[int], notes: list[str]
) -> dict[str, dict[str, Interval]]:
    found: dict[str, dict[str, Interval]] = {}
    for name, measurement in measurements.items():
        try:
            found[name] = summary(measurement, ks, measurements[base])
        except ValueError as error:
            notes.append(f"Evaluation {name} is left out: {error}.")
        if measurement.ungraded:
            notes.append(f"Evaluation {name}: {measurement.ungraded} answers could not be graded and are left out.")
    if not measurements:
        notes.append("There is no evaluation, so there is no table and no curve of Pass@k: run `breadth evaluate`.")
    return found


def _figures(output: Path, sources: _Sources) -> list[str]:
    """Draw the three figures and return their sections; a figure without data has a note instead."""
    plans = (
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


def _pass_against_k(sources: _Sources) -> list[Panel]:
    curves = []
    for name, values in sources.summaries.items():
        points = [(k, values[f"pass@{k}"]) for k in sorted(set(sources.ks)) if values[f"pass@{k}"].prompts]
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
    recorded = {key for records in sources.records.values() for record in records for key in record}
    names = [key.removeprefix("heldout/pass@") for key in recorded if key.startswith("heldout/pass@")]
    ks = sorted(int(name) for name in names if name.isdigit())
    panels = []
    for k in dict.fromkeys(ks[:1] + ks[-1:]):
        metric, interval = f"heldout/pass@{k}", sources.summaries.get(sources.base, {}).get(f"pass@{k}")
        panel = Panel(
            title=f"Pass@{k}",
            x_label="step",
            y_label=f"Pass@{k} (fraction of problems)",
            curves=list(_over_steps(sources, (metric,), marked=True)),
            base_value=interval.value if interval and interval.prompts else None,
            base_label=f"{sources.base} (evaluated)",
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
    return [
        report_page.lost_and_gained_problems(
            name, *lost_and_gained(sources.measurements[sources.base], sources.measurements[name])
        )
        for name in sources.summaries
        if name != sources.base
    ]
