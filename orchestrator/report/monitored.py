"""The results of runs that were not evaluated: their own last held-out measurements, compared with that of the base."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from configs.config import Config
from configs.load import load
from orchestrator.report.evaluation import Evaluation
from orchestrator.watch.measurement import Measurement
from orchestrator.watch.monitor import base_path, measured_ks, other_temperatures, read_measurement

Read = tuple[Config, Measurement, Measurement]
"""Settings of a run, its measurement of the base, and its last one."""


def monitored(runs: Mapping[str, Path]) -> list[Evaluation]:
    """Return the last held-out measurement of each run beside that of the base, as evaluations.

    Runs of one base with the same prompts and sampling are in one evaluation. A run without a measurement of the base
    and a later one is in none.

    Args:
        runs: run directories by name.
    """
    found = {name: read for name, folder in runs.items() if (read := _read(folder))}
    evaluations = []
    while found:
        evaluation = _of_first(runs, found)
        evaluations.append(evaluation)
        found = {name: read for name, read in found.items() if name not in evaluation.names}
    return evaluations


def _of_first(runs: Mapping[str, Path], found: Mapping[str, Read]) -> Evaluation:
    """Return the evaluation of the first run that is found, and of those that can be compared with it."""
    first, (cfg, base, _) = next(iter(found.items()))
    decoding = cfg.monitor.sampling.resolved(cfg.sampling)
    compared = {
        name: last
        for name, (other, own_base, last) in found.items()
        if other.policy.path == cfg.policy.path
        and other.monitor.sampling.resolved(other.sampling) == decoding
        and {p.prompt_id for p in own_base.prompts} == {p.prompt_id for p in base.prompts}
    }
    temperature, called = base.temperature, next(name for name in ("base", "start of the runs") if name not in runs)
    others = {t: read_measurement(base_path(runs[first], t)) for t in other_temperatures(cfg)}
    return Evaluation(
        base=called,
        ks=[k for k in measured_ks(cfg) if k <= base.answers],
        headline_k=0,
        sampling=decoding,
        temperatures=[temperature],
        measurements={
            called: {temperature: replace(base, name=called)} | {t: other for t, other in others.items() if other},
            **{name: {temperature: last} for name, last in compared.items()},
        },
        about={
            "task": cfg.task.name,
            "answers": base.answers,
            "paths": {called: cfg.policy.path, **{name: str(runs[name]) for name in compared}},
            "date": ", ".join(f"{name} at step {last.step}" for name, last in compared.items()),
            "extraction": cfg.task.extraction,
        },
    )


def _read(run_dir: Path) -> Read | None:
    """Return settings, measurement of the base and last one of a run; None if one of them is missing or unreadable."""
    paths = sorted((run_dir / "measurements").glob("step-*.json"))
    try:
        cfg = load(file=str(run_dir / "config.yaml"))
        measured = [found for path in (paths[:1] + paths[-1:]) if (found := read_measurement(path))]
    except (ValueError, OSError):
        return None
    if len(measured) < 2 or measured[0].step != 0 or measured[1].step == 0:
        return None
    return cfg, measured[0], measured[1]
