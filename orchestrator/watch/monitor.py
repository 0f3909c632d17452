"""The breadth monitor: measure Pass@k on the held-out prompts and compare it with the base policy."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from actors.contracts import Reference
from configs.config import Config
from orchestrator.heldout.cache import MeasurementCache
from orchestrator.heldout.other_tasks import measurable, other_path
from orchestrator.heldout.prompts import HeldOut, score_by_base
from orchestrator.watch.bootstrap import UNDEFINED, Interval
from orchestrator.watch.logbook import measurement_path
from orchestrator.watch.measurement import Measurement, PromptResult, measure
from orchestrator.watch.passk import summary
from orchestrator.watch.sharpening import placement, temperature_curve
from trajectories.trajectory import Group


def _with_ungraded(groups: Sequence[Group]) -> list[Group]:
    return [group for group in groups if any(t.reward is None for t in group.trajectories)]


class Monitor:
    """Measure the weights that the generators hold now, on the held-out prompts.

    `begin` generates the answers in the background, for the next `measure`. All are of the same weights only if nothing
    is published before `measure` returns.
    """

    def __init__(self, heldout: HeldOut, base_scorer: Reference | None, run_dir: Path) -> None:
        self.heldout, self.run_dir = heldout, run_dir
        self.base_scorer = base_scorer if heldout.cfg.measures_as_trained else None
        self.cfg = heldout.cfg.monitor
        self.ks = measured_ks(heldout.cfg)
        self.ungraded: list[Group] = []
        """Groups of the last measurement with an answer that could not be graded."""
        self.alert = ""
        """What the user must know about the last measurement; empty: nothing new."""
        self._tasks = measurable(heldout)
        self._decoding = self._tasks[""].decoding
        self._told: set[str] = set()
        self._answers: asyncio.Task[dict[str, list[Group]]] | None = None
        """Answers by task that are being generated for the next measurement."""

    @property
    def begun(self) -> bool:
        """Whether a measurement was begun and has not been made."""
        return self._answers is not None

    def begin(self, names: Sequence[str] = ()) -> None:
        """Begin to generate and grade the answers of the next measurement.

        Args:
            names: of the tasks that are measured; empty: all.
        """
        assert self._answers is None, "the measurement before was not made"
        self._answers = asyncio.create_task(self._answer(names or list(self._tasks)))
        # Marks its error as retrieved if the run ends before `measure`; asyncio warns of every error that is not.
        self._answers.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _answer(self, names: Sequence[str]) -> dict[str, list[Group]]:
        groups = await asyncio.gather(*(self._tasks[name].answer() for name in names))
        return dict(zip(names, groups, strict=True))

    def abandon(self) -> None:
        """Cancel a measurement that was begun."""
        if self._answers is not None:
            self._answers.cancel()

    async def measure(self, step: int) -> tuple[dict[str, Interval], Measurement]:
        """Measure the policy at `step` and compare it with the measurement of step 0, the base, and its frontier.

        Returns:
            The monitored values with their intervals, and the measurement they come from.
        """
        self.alert, self.ungraded = "", []
        found = await asyncio.to_thread(self._known_base) if step == 0 else {}
        missing = [name for name in self._tasks if name not in found]
        if missing:
            found |= await self._measure(step, missing)
        measurement = found.pop("")
        base = measurement if step == 0 else read_measurement(measurement_path(self.run_dir, 0))
        if step == 0:
            self.ungraded += await self._measure_base()
        values = await asyncio.to_thread(self._summary, measurement, base)
        for name, other in found.items():
            values |= await asyncio.to_thread(self._summary_of_other, name, other, step)
        return values, measurement

    def _summary(self, measurement: Measurement, base: Measurement | None) -> dict[str, Interval]:
        return summary(measurement, self.ks, base) | self._margins(measurement, base)

    def _summary_of_other(self, name: str, measurement: Measurement, step: int) -> dict[str, Interval]:
        """Write the measurement of another task, and return its values, compared with the base's, as NAME/VALUE."""
        measurement.write(other_path(self.run_dir, name, step))
        base = read_measurement(other_path(self.run_dir, name, 0))
        return {f"{name}/{key}": value for key, value in summary(measurement, self._tasks[name].ks, base).items()}

    async def _measure(self, step: int, names: Sequence[str]) -> dict[str, Measurement]:
        """Measure the tasks of these names; the answers may have been begun."""
        if self._answers is None:
            self.begin(names)
        assert self._answers is not None
        answered, self._answers = await self._answers, None
        found = {}
        for name in names:
            groups, task = answered[name], self._tasks[name]
            self.ungraded += _with_ungraded(groups)
            if self.base_scorer is not None and not name:
                groups = await score_by_base(groups, self.base_scorer)
            title, temperature = f"step {step}", task.decoding.temperature
            found[name] = await asyncio.to_thread(measure, groups, title, step, temperature, task.answers)
            if step == 0 and (cache := self._cache_of(name)) is not None:
                await asyncio.to_thread(cache.write, task.answers, task.decoding, groups, title)
        return found

    @cached_property
    def _cache(self) -> MeasurementCache | None:
        """The measurements of the base; None if it is measured at no other temperature. Reads all files of the base."""
        cfg = self.heldout.cfg
        return MeasurementCache(cfg, self.heldout.prompts, cfg.policy.path) if other_temperatures(cfg) else None

    @cached_property
    def _own_cache(self) -> MeasurementCache | None:
        """The same with the KL to the reference, if this monitor measures it."""
        cfg = self.heldout.cfg
        if self._cache is None or self.base_scorer is None:
            return self._cache
        return self._cache.scored_by(cfg.reference_path or cfg.policy.path)

    def _cache_of(self, name: str) -> MeasurementCache | None:
        """Return the measurements of the base on a task."""
        if not name or self._cache is None:
            return self._own_cache
        cfg, digest = self.heldout.cfg, self._cache.digest
        return MeasurementCache(cfg, self._tasks[name].heldout.prompts, cfg.policy.path, digest, foreign=True)

    def _known_base(self) -> dict[str, Measurement]:
        """Return the measurements of the base that an earlier run has made, by task."""
        found = {}
        for name, task in self._tasks.items():
            cache = self._cache_of(name)
            known = cache and cache.read(task.answers, task.decoding, "step 0")
            if known:
                found[name] = known.measurement
        return found

    async def _measure_base(self) -> list[Group]:
        """Measure the base, which the generators hold now, at the other temperatures, unless that is cached.

        Returns:
            The groups with an answer that could not be graded.
        """
        ungraded, cache = list[Group](), self._cache  # which `_known_base` has made
        if cache is None:
            return ungraded
        for temperature in other_temperatures(self.heldout.cfg):
            decoding = replace(self._decoding, temperature=temperature)
            known = await asyncio.to_thread(cache.read, self.cfg.answers, decoding, "base")
            if known is None:
                groups = await self.heldout.answer(self.cfg.answers, decoding)
                found = await asyncio.to_thread(measure, groups, "base", 0, temperature, self.cfg.answers)
                await asyncio.to_thread(cache.write, self.cfg.answers, decoding, groups, "base")
                ungraded += _with_ungraded(groups)
            else:
                found = known.measurement
            found.write(base_path(self.run_dir, temperature))
        return ungraded

    def _margins(self, measurement: Measurement, base: Measurement | None) -> dict[str, Interval]:
        """Return the margin against the frontier of the base for each k; undefined if a measurement of it is missing,
        and nothing without `monitor.frontier`."""
        temperatures = other_temperatures(self.heldout.cfg)
        if not temperatures:
            return {}
        found = [base, *(read_measurement(base_path(self.run_dir, t)) for t in temperatures)]
        measured = [m for m in found if m is not None]
        if base is None or len(measured) < len(found):
            self._tell("missing", "a measurement of the base at monitor.frontier is missing: no beyond_sharpening")
            return {f"beyond_sharpening/pass@{k}": UNDEFINED for k in self.ks}
        curve = temperature_curve(measured, self.ks)
        placed = {k: placement(measurement, curve, base, k) for k in self.ks}
        below = [str(k) for k, place in placed.items() if k > 1 and place.word == "below"]
        if below and measurement.step:
            self._tell(
                "below",
                f"step {measurement.step}: some temperature of the base has both a higher Pass@1 and a higher Pass@k, "
                f"k = {', '.join(below)}",
            )
        return {f"beyond_sharpening/pass@{k}": place.margin for k, place in placed.items()}

    def _tell(self, kind: str, text: str) -> None:
        """Set the alert, once for each kind."""
        if kind not in self._told:
            self._told.add(kind)
            self.alert = text


def measured_ks(cfg: Config) -> list[int]:
    """Return the values of k for Pass@k: those of `monitor.ks`, and 1."""
    return sorted({1, *cfg.monitor.ks})


def other_temperatures(cfg: Config) -> list[float]:
    """Return the temperatures of `monitor.frontier` without that at which every measurement is made."""
    return [t for t in cfg.monitor.frontier if t != cfg.monitor.sampling.resolved(cfg.sampling).temperature]


def measured_names(cfg: Config, prompt_ids: Sequence[str], *, scored: bool) -> list[str]:
    """Return the names of all values that the monitor measures, which best_metric and stop_if may use.

    Args:
        prompt_ids: ids of the held-out prompts.
        scored: whether the base scores the answers.
    """
    ks, kl = measured_ks(cfg), 0.0 if scored else None
    result = PromptResult(
        prompt_id="",
        prompt_text="",
        total=max(ks),
        correct=0,
        ungraded=0,
        distinct_correct=0,
        verifier="",
        votes=(),
        right_votes=(),
        tokens=1,
        negative_logp=0.0,
        log_probs=(),
        kl_to_base=kl,
        correct_answers=(),
        wrong_answers=(),
    )
    prompts = tuple(replace(result, prompt_id=prompt_id) for prompt_id in prompt_ids)
    stand_in = Measurement(name="", step=0, temperature=1.0, answers=max(ks), prompts=prompts)
    other = replace(stand_in, prompts=(replace(result, kl_to_base=None),))
    others = [
        f"{name}/{value}"
        for name, task in cfg.monitor.also.items()
        for value in summary(other, task.resolved_ks(cfg.monitor.answers, cfg.monitor.ks), other, resamples=1)
    ]
    margins = [f"beyond_sharpening/pass@{k}" for k in ks] if other_temperatures(cfg) else []
    return [*summary(stand_in, ks, stand_in, resamples=1), *margins, *others]


def base_path(run_dir: Path, temperature: float) -> Path:
    """Return the file of a run that holds the measurement of its base at a temperature of `monitor.frontier`."""
    return run_dir / "measurements" / f"base@{temperature}.json"


def read_measurement(path: Path) -> Measurement | None:
    """Read a measurement of a run; None if there is no such file."""
    return Measurement.from_json(path.read_text()) if path.is_file() else None
