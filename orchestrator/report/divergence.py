"""Reward against KL, and the map of the policies, as figures and as a table of an evaluation."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.evaluation.reward_kl import best_of_points, pass_rates, tilt_curve
from orchestrator.report.evaluation import Evaluation
from orchestrator.report.plots import Curve, Panel
from orchestrator.watch.bootstrap import Interval

Style = Callable[[str], int]
"""Returns the number of the line style of a policy."""

REWARD_KL = (
    "Mean reward (Pass@1) against the KL to the base in nats per answer, which is drawn at its square root: higher at "
    "the same KL is better. Grey line: the KL-optimal tilt of the base's own answers, base(y) exp(reward(y) / beta) / "
    "Z, the most that any reweighting of them gives at this KL. Grey points: the best of n of them, at its KL. Dotted: "
    "the same at the bound log n - (n - 1) / n, which is loose for rewards of 0 and 1. Bars: 95 % bootstrap intervals "
    "over problems."
)
MAP = (
    "Policies by the log-likelihoods l of the same held-out answers, those of all policies together. The squared "
    "distance of two policies is half the variance of l_i - l_j: about their KL in nats per answer where they are "
    "close; far apart it is only a distance. The axes are the first two principal components."
)
NOTE = (
    "KL to base: nats per answer, from the policy's own answers. KL efficiency: the fraction of this KL that the pass "
    "rates need. Optimal gain: the gain in Pass@1 as a fraction of what the KL-optimal tilt of the base's own answers "
    "gains at this KL. Both are left out where the interval of the KL is not above 0. Squared distance: to the base in "
    "the map, about the KL where both are close. Below a value: its 95 % bootstrap interval over problems; of the best "
    "of n: the bound of its KL."
)


def reward_kl_panels(evaluation: Evaluation | None, style: Style) -> list[Panel]:
    """Return the panel of reward against KL; none without a KL."""
    points = _placed(evaluation) if evaluation else {}
    if evaluation is None or not points:
        return []
    rates = pass_rates([p for p in evaluation.at_base.prompts if p.total])
    if not len(rates):
        return []
    kl, reward = (values.mean(1).tolist() for values in tilt_curve(rates))
    best = best_of_points(evaluation.at_base)
    bests, spent_by_best, bounds = ([point[key] for point in best] for key in ("reward", "kl", "bound"))
    points_of_best = Curve(
        name="best of n",
        style=0,
        x=spent_by_best,
        y=bests,
        labels=[str(point["n"]) if point["n"] > 1 else "" for point in best],
        labels_left=True,
        marked=True,
        joined=False,
    )
    curves = [
        Curve(name="KL-optimal tilt", style=0, x=kl, y=reward),
        points_of_best,
        Curve(name="best of n at its bound", style=0, x=bounds, y=bests, dashed=True),
    ]
    for name, (spent, passed) in points.items():
        curve = Curve(
            name=name,
            style=style(name),
            x=[max(spent.value, 0.0)],
            y=[passed.value],
            x_low=[max(spent.low, 0.0)],
            x_high=[max(spent.high, 0.0)],
            low=[passed.low],
            high=[passed.high],
            marked=True,
            joined=False,
        )
        curves.append(curve)
    title = f"Reward against KL (grey: answers of {evaluation.base}; labels: n)"
    label = "KL to the base (nats per answer)"
    return [Panel(title=title, x_label=label, y_label="Pass@1", curves=curves, whole_x=False, sqrt_x=True)]


def map_panels(evaluation: Evaluation | None, style: Style) -> list[Panel]:
    """Return the panel of the map; none without log-likelihoods."""
    if evaluation is None or evaluation.map is None:
        return []
    found = evaluation.map
    curves = [
        Curve(name=name, style=style(name), x=[x], y=[y], labels=[name], marked=True, joined=False)
        for name, (x, y) in zip(found.names, found.places.tolist(), strict=True)
    ]
    title = f"Map of the policies ({found.shown:.0%} of their squared distances)"
    axes = ("first component, square root of nats", "second component")
    return [Panel(title=title, x_label=axes[0], y_label=axes[1], curves=curves, whole_x=False, equal=True)]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The table of reward against KL."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    """A cell has a value and, on a second line, its interval or bound."""


def reward_kl_rows(evaluation: Evaluation) -> Rows | None:
    """Return one row for each policy, then one for each best of n of the base, n of `ks`; None without a KL."""
    placed, found = _placed(evaluation), evaluation.map
    if not placed:
        return None
    rows = []
    for name, (spent, passed) in placed.items():
        values = evaluation.summaries[name][evaluation.temperatures[0]]
        distance = ""
        if found is not None and name in found.names:
            distance = f"{found.squared_distances[0, found.names.index(name)]:.3f}"
        cells = [_cell(passed), _cell(spent), *(_cell(values[key]) for key in ("kl_efficiency", "optimal_gain"))]
        rows.append([name, *cells, distance])
    for point in best_of_points(evaluation.at_base):
        if point["n"] in evaluation.ks and point["n"] > 1:
            kl = f"{point['kl']:.3f}\nat most {point['bound']:.3f}"
            rows.append([f"{evaluation.base}, best of {point['n']}", f"{point['reward']:.3f}", kl, "1", "", ""])
    header = ["", "Pass@1", "KL to base", "KL efficiency", "Optimal gain", "Squared distance"]
    return Rows(header=header, rows=rows)


def _placed(evaluation: Evaluation) -> dict[str, tuple[Interval, Interval]]:
    """Return KL and Pass@1 of every policy but the base that has a KL."""
    first = evaluation.temperatures[0]
    of_first = {name: evaluation.summaries[name][first] for name in evaluation.names if name != evaluation.base}
    return {
        name: (values["kl_to_base"], values["pass@1"])
        for name, values in of_first.items()
        if "kl_to_base" in values and np.isfinite([values["kl_to_base"].value, values["pass@1"].value]).all()
    }


def _cell(interval: Interval) -> str:
    if not math.isfinite(interval.value):
        return "-"
    return f"{interval.value:z.3f}\n{interval.low:z.2f} to {interval.high:z.2f}"
