"""Compare each policy with the base problem by problem: what it lost and gained, and its values by difficulty."""

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.watch.bootstrap import CONFIDENCE, Interval
from orchestrator.watch.measurement import Measurement, PromptResult
from orchestrator.watch.passk import lost_and_gained, summary
from trajectories.atomic_write import replace_file
from trajectories.trajectory import Prompt

Once = Callable[[str, str, Callable[[], dict[str, Any]]], dict[str, Any]]
"""A function of the kind of values, the name of a policy and the function that computes its values."""
PROBLEMS, COVERAGE, SERIES = "problems.json", "coverage.json", "series.json"
"""Files of an evaluation."""
EDGES = (0.0, 0.1, 0.3, 0.6, 0.9, 1.0)
"""Upper ends of the bins of the base's pass rate; the first bin holds the problems that the base never solved."""
LEVEL_FIELDS = ("level", "difficulty")
"""Fields of a problem that may hold its difficulty, the first one that is there."""
MOST_LEVELS = 12
"""Values of that field up to which each is a bin; more numbers are divided into quarters, and more texts left out."""
Z = 1.959964
"""Quantile of the normal distribution for CONFIDENCE, 0.95."""
assert CONFIDENCE == 0.95


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate of which `correct` of `total` were seen; (0, 1) for a total of 0.

    Source: Wilson, Journal of the American Statistical Association 22 (1927), 209.
    """
    if not total:
        return 0.0, 1.0
    rate, spread = correct / total, Z * Z / total
    middle = rate + spread / 2
    half = Z * math.sqrt(rate * (1 - rate) / total + spread / (4 * total))
    low, high = (middle - half) / (1 + spread), (middle + half) / (1 + spread)
    return (0.0 if correct == 0 else low), (1.0 if correct == total else high)


def anew(kind: str, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Compute the values of a policy. `Evaluation.once` has the same arguments."""
    return compute()


def problems(base: Measurement, policies: Mapping[str, Measurement], once: Once = anew) -> dict[str, Any]:
    """Return the problems that each policy lost and gained against the base, with the intervals of their pass rates.

    Solved means that at least one answer is right. `clear` are those whose two intervals do not overlap; the others may
    be lost or gained by chance.

    Args:
        once: computes the values of one policy, or returns those that are known.
    """
    found = {name: once("problems", name, partial(_changed, base, other)) for name, other in policies.items()}
    return {"base": base.name, "answers": base.answers, "prompts": len(base.prompts), "policies": found}


def _changed(base: Measurement, measurement: Measurement) -> dict[str, Any]:
    lost, gained = lost_and_gained(base, measurement)
    values = summary(measurement, [1], base)
    rates = {key: _triple(values[key]) for key in ("retention", "expansion")}
    return {**rates, "lost": _counted(lost), "gained": _counted(gained)}


def _counted(pairs: Sequence[tuple[PromptResult, PromptResult]]) -> dict[str, Any]:
    listed = [_problem(before, after) for before, after in pairs]
    return {"count": len(listed), "clear": sum(one["clear"] for one in listed), "problems": listed}


def _problem(before: PromptResult, after: PromptResult) -> dict[str, Any]:
    rates = [_rate(result) for result in (before, after)]
    clear = rates[0]["low"] > rates[1]["high"] or rates[1]["low"] > rates[0]["high"]
    return {
        "prompt_id": before.prompt_id,
        "prompt": before.prompt_text,
        "base": rates[0],
        "policy": rates[1],
        "clear": clear,
    }


def _rate(result: PromptResult) -> dict[str, Any]:
    low, high = wilson(result.correct, result.total)
    return {"correct": result.correct, "total": result.total, "low": low, "high": high}


def coverage(
    base: Measurement,
    policies: Mapping[str, Measurement],
    ks: Sequence[int],
    levels: Mapping[str, Any],
    once: Once = anew,
) -> dict[str, Any]:
    """Return Pass@k of the base and each policy, and the change, by the difficulty of the problems.

    `by_base_rate` has a bin for each range of the base's own pass rate; `by_level` one for each of `levels_of`, and is
    empty if the problems have none.

    Args:
        levels: as `levels_of` returns them.
        once: as for `problems`.
    """
    by_rate = {label: ids for label, ids in _by_base_rate(base).items() if ids}
    everything = {base.name: base, **policies}

    def binned(way: str, bins: Mapping[str, Collection[str]]) -> list[dict[str, Any]]:
        return [
            {
                "bin": label,
                "prompts": len(ids),
                "policies": {
                    name: once(f"{way}/{label}", name, partial(_values, measurement, base, ids, ks))
                    for name, measurement in everything.items()
                },
            }
            for label, ids in bins.items()
        ]

    found: dict[str, Any] = {"base": base.name, "ks": list(ks), "by_base_rate": binned("by_base_rate", by_rate)}
    by_level = {label: set(ids) for label, ids in levels["bins"].items()}
    return found | {"field": levels["field"], "by_level": binned("by_level", by_level)}


def levels_of(prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Return the `field` of the problems that holds their difficulty, and the ids of the problems of each of its `bins`
    by the text of its value, in the order of the values; "" and no bins if there is none."""
    field = next((name for name in LEVEL_FIELDS if any(name in p.problem for p in prompts)), "")
    return {"field": field, "bins": _by_level(field, prompts) if field else {}}


def _by_base_rate(base: Measurement) -> dict[str, set[str]]:
    """Return the ids of the problems by the range of the base's pass rate, as text, the hardest first."""
    labels = ["0", *(f"{low:g} to {high:g}" for low, high in pairwise(EDGES))]
    found: dict[str, set[str]] = {label: set() for label in labels}
    for p in base.prompts:
        if p.total:
            found[labels[int(np.searchsorted(EDGES, p.correct / p.total, side="left"))]].add(p.prompt_id)
    return found


def _by_level(field: str, prompts: Sequence[Prompt]) -> dict[str, list[str]]:
    """Return the ids of the problems by the value of the field, sorted; numbers with many values by their quarter."""
    values = {p.id: p.problem[field] for p in prompts if _is_level(p.problem.get(field))}
    if len(set(values.values())) > MOST_LEVELS:
        values = {key: value for key, value in values.items() if not isinstance(value, str)}
        if not values:
            return {}
        ends = np.quantile(list(values.values()), [0.0, 0.25, 0.5, 0.75, 1.0])
        places = {key: min(int(np.searchsorted(ends[1:], value)), 3) for key, value in values.items()}
        labels = {key: f"{ends[place]:g} to {ends[place + 1]:g}" for key, place in places.items()}
        ordered = [labels[key] for key in sorted(places, key=lambda key: places[key])]
    else:
        labels = {key: str(value) for key, value in values.items()}
        ordered = [str(value) for value in sorted(values.values(), key=lambda v: (isinstance(v, str), v))]
    return {label: [key for key, own in labels.items() if own == label] for label in dict.fromkeys(ordered)}


def _is_level(value: Any) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _only(measurement: Measurement, ids: Collection[str]) -> Measurement:
    return replace(measurement, prompts=tuple(p for p in measurement.prompts if p.prompt_id in ids))


def _values(measurement: Measurement, base: Measurement, ids: Collection[str], ks: Sequence[int]) -> dict[str, Any]:
    """Return the values on the problems of one bin."""
    of_bin = _only(measurement, ids)
    values = summary(of_bin, ks, _only(base, ids))
    kept = [f"{before}pass@{k}" for before in ("", "change/") for k in ks] + ["retention", "expansion"]
    if len(of_bin.prompts) > 1:
        return {key: _triple(values[key]) for key in kept}
    return {key: [_triple(values[key])[0], None, None] for key in kept}  # every resample is the one problem


def series(steps: Mapping[str, int], values: Mapping[str, Mapping[str, Interval]]) -> dict[str, Any]:
    """Return the values over the steps of a run, in the order of the steps.

    Args:
        steps: step of each policy that is a checkpoint; 0 of the base.
        values: every value of each policy with its interval.
    """
    points = [
        {"step": step, "policy": name, "values": {key: _triple(value) for key, value in values[name].items()}}
        for name, step in sorted(steps.items(), key=lambda item: item[1])
        if name in values
    ]
    return {"points": points}


def _triple(value: Interval) -> list[float | None]:
    """Return value, low and high end of its interval; None for each that is not a number."""
    return [number if math.isfinite(number) else None for number in (value.value, value.low, value.high)]


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write JSON to `path`, atomically."""
    with replace_file(path) as file:
        file.write(json.dumps(data, indent=1, allow_nan=False).encode() + b"\n")
