"""`breadth evaluate`: measure Pass@k of any number of policies on the held-out prompts of one task."""

import argparse
import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from actors.contracts import WeightsInfo
from actors.learning.policy import check_policy_folder, load_model
from actors.local import init_host_weights, publish_host_weights
from actors.weights.host import pack, weights_info
from configs.config import Config
from orchestrator import cluster
from orchestrator.commands.options import config, line_printer
from orchestrator.commands.paths import split_name
from orchestrator.report.inputs import results_table
from orchestrator.rollout.encoding import encoder
from orchestrator.rollout.rollouts import Rollouts
from orchestrator.watch.monitor import HeldOut
from orchestrator.watch.passk import Interval, Measurement, measure, summary
from tasks.registry import build
from trajectories.trajectory import Group


def named_checkpoints(cfg: Config) -> dict[str, str]:
    """Return the policy directories of `evaluate.checkpoints` by name; by default that of `policy.path`.

    An item is the directory of a policy or of a run's checkpoint. The first policy is the base of the comparison.

    Raises:
        ValueError: two policies have the same name, or a directory has no policy.
    """
    named: dict[str, str] = {}
    for item in cfg.evaluate.checkpoints or [f"policy={cfg.policy.path}"]:
        name, path = split_name(item)
        folder = Path(path) / "policy" if (Path(path) / "policy").is_dir() else Path(path)
        name = name or (folder.parent.name if folder.name == "policy" else folder.name)
        if name in named:
            raise ValueError(f"evaluate.checkpoints: names must differ, got {name!r} twice")
        check_policy_folder(str(folder), "evaluate.checkpoints" if cfg.evaluate.checkpoints else "policy.path")
        named[name] = str(folder.resolve())
    return named


async def evaluate(cfg: Config, checkpoints: Mapping[str, str], log: Callable[[str], None]) -> dict[str, Measurement]:
    """Answer the held-out prompts with every policy; write results.json, answers.parquet and the measurements.

    All policies use the same seeds. Policies of the same architecture use the same generators, one after another: their
    weights are published to the generators as in training.

    Args:
        checkpoints: policy directories by name, the base first.
        log: called with one line of text per policy.

    Returns:
        The measurements by name, in the order of `checkpoints`.
    """
    # The driver reads the weights from a directory, so they never come from another GPU.
    cfg = replace(cfg, generator=replace(cfg.generator, transfer="host"))
    output = Path(cfg.evaluate.output) if cfg.evaluate.output else Path(cfg.runs) / cfg.name / "evaluation"
    output.mkdir(parents=True, exist_ok=True)
    measurements: dict[str, Measurement] = {}
    rows: list[dict[str, Any]] = []
    for paths in _by_architecture(cfg, checkpoints):
        first = next(iter(paths.values()))
        roles = await cluster.start(cfg, ["generator", "grader"], policy_path=first)
        try:
            async with Rollouts(roles.generators, roles.graders, cfg.generator.timeout_s) as rollouts:
                heldout = HeldOut(cfg, build(cfg.task, cfg.seed), encoder(replace(cfg.policy, path=first)), rollouts)
                for version, (name, path) in enumerate(paths.items()):
                    await _publish(cfg, rollouts, path, version)
                    groups = await heldout.answer(cfg.evaluate.answers, cfg.evaluate.temperature)
                    measurements[name] = measure(groups, name, 0)
                    rows += _rows(name, groups)
                    log(f"evaluate {name}: {sum(len(g.trajectories) for g in groups)} answers")
        finally:
            await roles.close()
    measurements = {name: measurements[name] for name in checkpoints}
    _write(cfg, output, measurements, rows)
    return measurements


def _by_architecture(cfg: Config, checkpoints: Mapping[str, str]) -> list[dict[str, str]]:
    """Group the checkpoints by the names and shapes of their weights, in order of appearance."""
    infos: list[WeightsInfo] = []
    groups: list[dict[str, str]] = []
    for name, path in checkpoints.items():
        info = weights_info(_parameters(cfg, path))
        if info not in infos:
            infos.append(info)
            groups.append({})
        groups[infos.index(info)][name] = path
    return groups


def _parameters(cfg: Config, path: str) -> list[tuple[str, Any]]:
    model = load_model(path)
    dtype = {"float32": model.float, "bfloat16": model.bfloat16}[cfg.policy.dtype]
    return [(name, p.detach()) for name, p in dtype().named_parameters()]


async def _publish(cfg: Config, rollouts: Rollouts, path: str, version: int) -> None:
    parameters = _parameters(cfg, path)
    if version == 0:
        await init_host_weights(rollouts.generators, weights_info(parameters))
    weights = cluster.store_once(cfg, pack(parameters, version, cfg.generator.checksum))
    await publish_host_weights(rollouts.generators, weights, version)


def summaries(measurements: Mapping[str, Measurement], ks: Sequence[int]) -> dict[str, dict[str, Interval]]:
    """Return every policy's values with intervals, compared with the first policy."""
    base = next(iter(measurements.values()))
    return {name: summary(measurement, ks, base) for name, measurement in measurements.items()}


def _rows(name: str, groups: Sequence[Group]) -> list[dict[str, Any]]:
    return [
        {
            "policy": name,
            "prompt_id": group.prompt.id,
            "prompt": group.prompt.text,
            "sample_index": t.sample_index,
            "seed": t.seed,
            "answer": t.text,
            "reward": t.reward,
            "status": t.grade.status if t.grade else None,
            "reason": t.grade.reason if t.grade else None,
            "tokens": t.answer_length,
            "finish_reason": t.finish_reason,
        }
        for group in groups
        for t in group.trajectories
    ]


def _null_if_nan(value: float) -> float | None:
    """Return None for NaN, which JSON does not have: for example the retention if the base solved no prompt."""
    return None if math.isnan(value) else value


def _write(cfg: Config, output: Path, measurements: Mapping[str, Measurement], rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), output / "answers.parquet")
    folder = output / "measurements"
    folder.mkdir(exist_ok=True)
    for name, measurement in measurements.items():
        (folder / f"{name}.json").write_text(measurement.to_json())
    results: dict[str, dict[str, Any]] = {}
    for name, values in summaries(measurements, cfg.evaluate.ks).items():
        results[name] = {key: _null_if_nan(interval.value) for key, interval in values.items()}
        results[name]["intervals"] = {key: [_null_if_nan(i.low), _null_if_nan(i.high)] for key, i in values.items()}
    # results.json is written last: if it exists, so do the other files.
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")


def run(options: argparse.Namespace, console: Console) -> None:
    """Evaluate `evaluate.checkpoints` and print the table of results."""
    cfg = config(options)
    measurements = asyncio.run(evaluate(cfg, named_checkpoints(cfg), line_printer(console)))
    Console().print(results_table(summaries(measurements, cfg.evaluate.ks)))
