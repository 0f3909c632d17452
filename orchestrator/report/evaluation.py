"""The results of `breadth evaluate`: measurements of every policy at every temperature, and what follows from them."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from configs.extraction import STRICT
from configs.heldout import Decoding
from orchestrator.evaluation.likelihoods import Likelihoods, Map, read_likelihoods
from orchestrator.evaluation.reward_kl import best_of_points, efficiency, tilt_points
from orchestrator.heldout.answer_table import join_tables
from orchestrator.heldout.votes import majorities
from orchestrator.report.inputs import RESULTS, check_evaluation
from orchestrator.watch.bootstrap import Interval
from orchestrator.watch.frontier import BaseCurve, Placement
from orchestrator.watch.measurement import Measurement
from orchestrator.watch.passk import summary
from orchestrator.watch.sharpening import placement, power_curves, temperature_curve
from trajectories.atomic_write import replace_file

R = TypeVar("R")
SAMPLINGS = "samplings"
"""Folder of an evaluation that holds one for each further sampling, by name."""
TASKS = "tasks"
"""Folder of an evaluation that holds one for each further task, by name."""
DEFAULT_HEADLINE_K = 16
"""The k of the first figure, where it is among the measured ones and no other is chosen."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Measurements of several policies on the same prompts. The base may have more temperatures than the others."""

    base: str
    ks: list[int]
    """Ascending; 1 is among them."""
    headline_k: int
    """One of `ks`; 0: DEFAULT_HEADLINE_K, or the largest of `ks`."""
    sampling: Decoding
    """Sampling of all answers, but for the temperature."""
    temperatures: list[float]
    """Temperatures of every policy. Changes are since the base at the first one, at which the verdicts are given."""
    measurements: dict[str, dict[float, Measurement]]
    """Name of the policy -> temperature -> measurement; the base first."""
    about: dict[str, Any]
    """Task, its name in `evaluate.tasks`, number of answers, name of the sampling, the problems by difficulty
    (`levels`, as `levels_of` returns them), extraction modes, date, the directories (`paths`) and rendered first
    prompts of the policies, and the path of a report on the task's prompts if there is one, for the report."""
    likelihoods: Likelihoods | None = None
    """Of answers at the first of `temperatures`; None: not measured. Policies that read other tokens are left out."""
    folder: Path | None = field(default=None, compare=False)
    """Directory it was read from; None: it was not."""
    _done: dict[tuple[str, str, float], Any] = field(default_factory=dict, init=False, compare=False, repr=False)
    """What `once` has computed, by kind, policy and temperature."""

    @property
    def names(self) -> list[str]:
        """Names of the policies, the base first."""
        return list(self.measurements)

    @property
    def conditions(self) -> str:
        """The sampling in words, after its name if it has one, and the extraction mode unless it is strict."""
        name, mode = self.about.get("sampling") or self.about.get("name"), self.about.get("extraction", "")
        sampling = f"{name}: {self.sampling.limits()}" if name else self.sampling.limits()
        return sampling if mode in ("", STRICT) else f"{sampling}, extraction {mode}"

    @property
    def figure_k(self) -> int:
        """The k of the first figure."""
        wanted = self.headline_k or DEFAULT_HEADLINE_K
        return wanted if wanted in self.ks else max(self.ks)

    def once(self, kind: str, name: str, compute: Callable[[], R], temperature: float | None = None) -> R:
        """Return what `compute` returns for a policy, which is computed once.

        Args:
            kind: of the value.
            temperature: None: the first one.
        """
        key = kind, name, self.temperatures[0] if temperature is None else temperature
        if key not in self._done:
            self._done[key] = compute()
        found: R = self._done[key]
        return found

    def go_on_from(self, earlier: "Evaluation") -> None:
        """Use what was computed for an earlier evaluation of some of the same measurements.

        Args:
            earlier: with the same base, k and levels of difficulty, which decide the values of all policies.
        """
        assert earlier.ks == self.ks and earlier.about["levels"] == self.about["levels"]
        assert earlier.measurements[earlier.base] == self.measurements[self.base]
        for key, found in earlier._done.items():
            _, name, t = key
            if self.measurements.get(name, {}).get(t) is earlier.measurements[name][t]:
                self._done[key] = found

    @property
    def at_base(self) -> Measurement:
        """The measurement of the base with which all others are compared."""
        return self.measurements[self.base][self.temperatures[0]]

    @cached_property
    def summaries(self) -> dict[str, dict[float, dict[str, Interval]]]:
        """Every value with its interval, compared with `at_base`: policy -> temperature -> value."""
        return {
            name: {t: self.once("summary", name, partial(self._summary, name, m), t) for t, m in by_temperature.items()}
            for name, by_temperature in self.measurements.items()
        }

    @property
    def at_first_temperature(self) -> dict[str, dict[str, Interval]]:
        """Every value of each policy at the temperature at which policies are compared."""
        return {name: of_policy[self.temperatures[0]] for name, of_policy in self.summaries.items()}

    def _summary(self, name: str, measurement: Measurement) -> dict[str, Interval]:
        spent = {} if name == self.base else efficiency(measurement, self.at_base)
        return summary(measurement, self.ks, self.at_base) | majorities(measurement, self.ks) | spent

    @cached_property
    def map(self) -> Map | None:
        """The map of the policies; None without log-likelihoods."""
        return self.likelihoods.map() if self.likelihoods else None

    @cached_property
    def frontier(self) -> BaseCurve | None:
        """The base over its temperatures; None if it has only one."""
        measured = list(self.measurements[self.base].values())
        return temperature_curve(measured, self.ks) if len(measured) > 1 else None

    @cached_property
    def power(self) -> dict[int, BaseCurve]:
        """The base's power distribution over its exponents, by k, from its measurement at temperature 1.

        Empty without that measurement, and where tokens are left out, so that the log-probs are not the policy's; k
        without enough answers are left out.
        """
        measured = None if self.sampling.truncated else self.measurements[self.base].get(1.0)
        return power_curves(measured, self.ks) if measured else {}

    @cached_property
    def placements(self) -> dict[str, dict[float, dict[int, Placement]]]:
        """The place of every other policy against the frontier: policy -> temperature -> k. Empty without frontier."""
        return self._placed("frontier", dict.fromkeys(self.ks, self.frontier) if self.frontier else {})

    @cached_property
    def power_placements(self) -> dict[str, dict[float, dict[int, Placement]]]:
        """The same against the power distribution."""
        return self._placed("power", self.power)

    def _placed(self, kind: str, curves: dict[int, BaseCurve]) -> dict[str, dict[float, dict[int, Placement]]]:
        like = next(iter(self.measurements[self.base].values()))

        def placed(measurement: Measurement) -> dict[int, Placement]:
            return {k: placement(measurement, curve, like, k) for k, curve in curves.items()}

        return {
            name: {t: self.once(kind, name, partial(placed, m), t) for t, m in by_temperature.items()}
            for name, by_temperature in self.measurements.items()
            if name != self.base and curves
        }

    def write(self, folder: Path, answers: Sequence[tuple[str, Path]]) -> None:
        """Write the answers, the measurements and results.json, which `read_evaluation` reads, to `folder`.

        A measurement that this evaluation, or the one that it goes on from, has written there is not written again.

        Args:
            answers: parquet files of answers, each with the name of its policy; none: the answers are not written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if answers:
            join_tables(folder / "answers.parquet", answers)
        for name, by_temperature in self.measurements.items():
            for t, measurement in by_temperature.items():
                path = folder / "measurements" / f"{name}@{t}.json"
                self.once(f"written to {folder}", name, partial(measurement.write, path), t)
        if self.likelihoods:
            self.likelihoods.write(folder)
        # results.json is written last: if it exists, so do the other files.
        with replace_file(folder / RESULTS) as file:
            file.write(json.dumps(self.results(), indent=1).encode() + b"\n")

    def results(self) -> dict[str, Any]:
        """Return everything as JSON data; a number that JSON does not have (NaN, infinity) is None."""
        return {
            "base": self.base,
            "ks": self.ks,
            "headline_k": self.headline_k,
            "sampling": self.sampling.plain(),
            "temperatures": self.temperatures,
            "prompts": len(self.at_base.prompts),
            "about": self.about,
            "policies": {
                name: {str(t): self._values(name, t) for t in by_temperature}
                for name, by_temperature in self.measurements.items()
            },
            "power": {str(k): _curve(curve, k) for k, curve in self.power.items()},
            "reward_kl": {"best_of": best_of_points(self.at_base), "tilt": tilt_points(self.at_base)},
            "map": self._map(),
        }

    def _map(self) -> dict[str, Any] | None:
        if self.map is None or self.likelihoods is None:
            return None
        return {
            "names": list(self.map.names),
            "places": _rows(self.map.places),
            "squared_distances": _rows(self.map.squared_distances),
            "kl": _rows(self.likelihoods.kl().mean(-1)),
            "shown": self.map.shown,
        }

    def _values(self, name: str, temperature: float) -> dict[str, Any]:
        values = self.summaries[name][temperature]
        found: dict[str, Any] = {key: _finite(value.value) for key, value in values.items()}
        found["intervals"] = {key: [_finite(value.low), _finite(value.high)] for key, value in values.items()}
        for key, placed in (("sharpening", self.placements), ("power", self.power_placements)):
            if name in placed:
                found[key] = {f"pass@{k}": _placement(p) for k, p in placed[name][temperature].items()}
        return found


def read_evaluation(folder: Path) -> Evaluation:
    """Read the output directory of `breadth evaluate`.

    Raises:
        ValueError: the directory has no results.json, or one that is not of an evaluation.
    """
    check_evaluation(folder)
    try:
        results = json.loads((folder / RESULTS).read_text())
        measurements = {
            name: {float(t): _read_measurement(folder / "measurements" / f"{name}@{t}.json") for t in by_temperature}
            for name, by_temperature in results["policies"].items()
        }
        if results["temperatures"][0] not in measurements[results["base"]]:
            raise KeyError(f"{results['base']} at temperature {results['temperatures'][0]}")
        return Evaluation(
            base=results["base"],
            ks=results["ks"],
            headline_k=results["headline_k"],
            sampling=Decoding(**results["sampling"]),
            temperatures=results["temperatures"],
            measurements=measurements,
            about=dict(results["about"]),
            likelihoods=read_likelihoods(folder),
            folder=folder,
        )
    except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
        raise ValueError(
            f"--evaluation: must hold the {RESULTS} and measurements of `breadth evaluate`, got {str(folder)!r} "
            f"({type(error).__name__}: {error})"
        ) from error


def _read_measurement(path: Path) -> Measurement:
    try:
        return Measurement.from_json(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _placement(placement: Placement) -> dict[str, Any]:
    found: dict[str, Any] = {"word": placement.word, "unreached": placement.unreached}
    for key in ("margin", "pass_k_above", "pass_1_above"):
        value: Interval = getattr(placement, key)
        found[key] = [_finite(value.value), _finite(value.low), _finite(value.high)]
    return found


def _curve(curve: BaseCurve, k: int) -> list[dict[str, float]]:
    passes = zip(curve.temperatures, curve.passes[1], curve.passes[k], strict=True)
    return [
        {"alpha": 1 / t, "pass@1": float(np.nanmean(one)), f"pass@{k}": float(np.nanmean(many))}
        for t, one, many in passes
    ]


def _rows(values: np.ndarray) -> list[list[float | None]]:
    return [[_finite(value) for value in row] for row in values.tolist()]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
