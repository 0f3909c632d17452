"""Panels of a report: an evaluation's frontier and Pass@k, and the records of runs over their steps."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.monitor import RESERVED
from orchestrator.report.evaluation import Evaluation
from orchestrator.report.inputs import beside
from orchestrator.report.plots import COLOURS, Curve, Panel
from orchestrator.watch.frontier import Line, line

FRONTIER = (
    "Pass@1 against Pass@k: higher and further right is better. Grey: the base at all measured temperatures (0: greedy "
    "decoding), with the 95 % interval of its Pass@k; every point of it costs nothing. A policy has learned something "
    "that sampling does not give where no point of the grey curve is as good in both, and the 95 % interval of the "
    "margin, paired over problems, is above 0: a point right of the whole curve whose interval holds 0 is not shown to "
    "be beyond it."
)
POWER = " Dotted: the base's power distribution, p^alpha over whole answers."
CHECKPOINTS = "Pass@k of the evaluated checkpoints over their steps, with 95 % bootstrap intervals over problems."
PASS_AGAINST_K = (
    "Pass@k: probability that at least one of k answers is correct, mean over held-out problems, with 95 % bootstrap "
    "intervals over problems. If a run became better without losing solutions, its curve is above the base at every k. "
    "If its curve crosses the base, it gained Pass@1 and lost problems that the base can solve. Curves are shifted "
    "slightly sideways so that their intervals do not overlap."
)
MAJORITY = " Maj@k: the fraction of problems whose most frequent final answer among k is right."
HELD_OUT = (
    "The held-out problems during training, with 95 % bootstrap intervals over problems. Dotted: the base at the first "
    "temperature. The margin is positive where no temperature of the base gives this Pass@1 and Pass@k. "
    "Retention: of the problems that the base solved, the fraction still solved at least once."
)
TRAINING = (
    "From 40 steps on, thin lines are every step and thick lines their running mean. An entropy that falls towards 0 "
    "and a KL that keeps growing are early signs of lost solutions. A group without a signal has equal rewards for all "
    "its answers. Staleness: optimizer steps between the weights that an answer starts with and those that train on it."
)
SPEED = (
    "Wall seconds of every step and of what the loop waits for, and generated tokens per second of the whole pipeline."
)
PARTS = (
    "Pass@k of each domain of a mixture, or of each other task that the run measures: one that falls while the others "
    "rise is forgotten. With 95 % bootstrap intervals over problems."
)
DOMAIN = re.compile(r"heldout/pass@(?P<k>\d+)/(?P<name>(?!(low|high)$)[^/]+)")
OTHER_TASK = re.compile(rf"heldout/(?P<name>(?!({'|'.join(RESERVED)})/)[^/]+)/pass@(?P<k>\d+)")
"""Names of metrics, as docs/metrics.md has them."""
KL_METRICS = ("heldout/kl_to_base", "kl_reference_per_trajectory")
"""The KL of a run is the first of these metrics that it recorded."""
KEPT = (
    ("Retention", "fraction of problems", ("heldout/retention",)),
    ("Different right answers", "per problem", ("heldout/distinct_correct",)),
)
"""Title, label of y, and metrics of a panel, of which a run's first recorded one is drawn."""
TRAINED = (
    ("Reward", "mean reward", ("reward",)),
    ("Entropy", "nats per token", ("entropy",)),
    ("KL to the base", "nats per answer", KL_METRICS),
    ("Length of an answer", "tokens", ("answer_length",)),
    ("Answers cut at the length limit", "fraction", ("truncated",)),
    ("Groups without a signal", "fraction", ("zero_signal_groups",)),
    ("Staleness", "steps, mean", ("staleness",)),
)
SPED = (
    ("Step", "seconds", ("seconds/step",)),
    ("Waiting for generation", "seconds", ("seconds/wait_generation",)),
    ("Update", "seconds", ("seconds/update",)),
    ("Throughput", "tokens per second", ("tokens_per_second",)),
)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The data of a report."""

    runs: Mapping[str, Path]
    """Run directories by name."""
    records: Mapping[str, list[dict[str, Any]]]
    """Those of metrics.jsonl, by run."""
    evaluation: Evaluation | None

    @cached_property
    def recorded(self) -> set[str]:
        """Names of all metrics of the runs."""
        return {key for records in self.records.values() for record in records for key in record}

    def style(self, name: str) -> int:
        """Return the number of the line style of a run or evaluation; 0 is the base."""
        evaluated = self.evaluation.names if self.evaluation else []
        base = self.evaluation.base if self.evaluation else None
        names = [n for n in dict.fromkeys([*self.records, *evaluated]) if n != base]
        return 0 if name == base else 1 + names.index(name)


def frontier(sources: Sources) -> list[Panel]:
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
    curves = [curve for curve in curves if any(map(math.isfinite, curve.y))]
    title = f"Pass@1 against Pass@{k} (labels: temperature)"
    panel = Panel(title=title, x_label="Pass@1", y_label=f"Pass@{k}", curves=curves, whole_x=False)
    return [panel] if curves else []


def frontier_caption(sources: Sources) -> str:
    """Return the caption of the figure of the frontier."""
    evaluation = sources.evaluation
    return FRONTIER + (POWER if evaluation and evaluation.figure_k in evaluation.power else "")


def _curve_of_base(name: str, points: Line, banded: bool) -> Curve:
    low, high = (points.low, points.high) if banded else ([], [])
    return Curve(name=name, style=0, x=points.pass_1, y=points.pass_k, low=low, high=high, dashed=not banded)


def pass_against_k(sources: Sources) -> list[Panel]:
    """Return Pass@k against k of every policy at the first temperature."""
    evaluation = sources.evaluation
    if evaluation is None or len(evaluation.ks) < 2:
        return []
    return [
        Panel(
            title=f"{kind}@k",
            x_label="k (answers per problem)",
            y_label="fraction of problems",
            curves=_against_k(sources, evaluation, f"{kind.lower()}@"),
            log2_x=True,
        )
        for kind in ("Pass", "Maj")
    ]


def against_k_caption(panels: Sequence[Panel]) -> str:
    """Return the caption of the panels of `pass_against_k`."""
    return PASS_AGAINST_K + (MAJORITY if any(panel.curves for panel in panels[1:]) else "")


def _against_k(sources: Sources, evaluation: Evaluation, prefix: str) -> list[Curve]:
    """Return a curve for each policy that has values named `prefix` and k."""
    curves = []
    for name in evaluation.names:
        values = evaluation.summaries[name][evaluation.temperatures[0]]
        named = [(k, values[f"{prefix}{k}"]) for k in sorted(set(evaluation.ks)) if f"{prefix}{k}" in values]
        points = [(k, interval) for k, interval in named if interval.prompts]
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
    return curves


def over_checkpoints(sources: Sources) -> list[Panel]:
    """Return Pass@k of a run's evaluated checkpoints over their steps; nothing if fewer than three were evaluated."""
    evaluation = sources.evaluation
    points = beside(evaluation.folder, "series.json").get("points", []) if evaluation else []
    if evaluation is None or len(points) < 3:
        return []
    assert evaluation.folder is not None
    run = evaluation.folder.resolve().parents[1].name
    run = run if run in sources.records else "the run"
    colour = sources.style(run) if run in sources.records else 1
    curves = []
    for number, k in enumerate(evaluation.ks):
        known = [(point["step"], point["values"].get(f"pass@{k}", [None])) for point in points]
        known = [(step, value) for step, value in known if None not in value]
        curve = Curve(
            name=f"Pass@{k}",
            style=colour + number * len(COLOURS),  # the colour of the run, with another marker
            x=[step for step, _ in known],
            y=[value for _, (value, _, _) in known],
            low=[low for _, (_, low, _) in known],
            high=[high for _, (_, _, high) in known],
            marked=True,
        )
        curves += [curve] if known else []
    return [Panel(title=f"Checkpoints of {run}", x_label="step", y_label="fraction of problems", curves=curves)]


def held_out(sources: Sources) -> list[Panel]:
    """Return Pass@k over steps for the smallest and the largest measured k, the margin against the frontier, and what
    was kept."""
    recorded = (key.removeprefix("heldout/pass@") for key in sources.recorded if key.startswith("heldout/pass@"))
    ks = sorted(int(name) for name in recorded if name.isdecimal())
    evaluation = sources.evaluation
    at_base = evaluation.summaries[evaluation.base][evaluation.temperatures[0]] if evaluation else {}
    panels = []
    for k in dict.fromkeys(ks[:1] + ks[-1:]):
        base, interval = evaluation.base if evaluation else "", at_base.get(f"pass@{k}")
        known = interval is not None and interval.prompts > 0
        panel = Panel(
            title=f"Pass@{k}",
            x_label="step",
            y_label="fraction of problems",
            curves=list(_over_steps(sources, (f"heldout/pass@{k}",), marked=True)),
            base_line=Curve(name=f"{base}, measured", style=0, x=[0], y=[interval.value], dashed=True)
            if interval is not None and known
            else None,
        )
        panels.append(panel)
    margins = [(f"Beyond sharpening, Pass@{k}", "margin", (f"heldout/beyond_sharpening/pass@{k}",)) for k in ks[-1:]]
    return panels + over_steps(sources, [*margins, *KEPT], marked=True)


def parts_held_out(sources: Sources) -> list[Panel]:
    """Return Pass@k over steps for the smallest and the largest k of each domain of a mixture, and of each other task
    that the runs measured."""
    found: dict[str, dict[int, str]] = {}
    for key in sorted(sources.recorded):
        domain, other = DOMAIN.fullmatch(key), OTHER_TASK.fullmatch(key)
        if match := domain or other:
            found.setdefault(match["name"], {})[int(match["k"])] = key
    slots = [
        (f"{name}: Pass@{k}", "fraction of problems", (by_k[k],))
        for name, by_k in found.items()
        for k in dict.fromkeys((min(by_k), max(by_k)))
    ]
    return _panels(sources, slots, marked=True)  # also those at 0, which the base cannot do


def over_steps(
    sources: Sources, slots: Sequence[tuple[str, str, Sequence[str]]], *, marked: bool = False
) -> list[Panel]:
    """Return a panel of all runs over their steps for each slot (title, y label, metrics), of which the first recorded
    one is drawn; none for a slot that is 0 at every step of every run."""
    panels = _panels(sources, slots, marked=marked)
    return [panel for panel in panels if any(any(curve.y) for curve in panel.curves)]


def _panels(sources: Sources, slots: Sequence[tuple[str, str, Sequence[str]]], *, marked: bool) -> list[Panel]:
    return [
        Panel(title=title, x_label="step", y_label=label, curves=list(_over_steps(sources, metrics, marked)))
        for title, label, metrics in slots
    ]


def _over_steps(sources: Sources, metrics: Sequence[str], marked: bool) -> Iterable[Curve]:
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
