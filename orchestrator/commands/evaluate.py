"""`breadth evaluate`: measure Pass@k of any number of policies on the held-out prompts of one task."""

import argparse
import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from actors.learning.policy import check_policy_folder, load_model
from actors.local import init_host_weights, publish_host_weights
from actors.weights.host import pack, weights_info
from configs.checks import require
from configs.config import Config
from orchestrator import cluster
from orchestrator.commands.options import config, line_printer
from orchestrator.commands.paths import split_name
from orchestrator.evaluation.engines import by_engine
from orchestrator.report.evaluation import Evaluation
from orchestrator.report.terminal import print_evaluation
from orchestrator.rollout.encoding import encoder
from orchestrator.rollout.rollouts import Rollouts
from orchestrator.watch.base_cache import BaseCache, Measured
from orchestrator.watch.measurement import measure
from orchestrator.watch.monitor import HeldOut
from tasks.registry import build

NAME_LIMIT = 100
"""Characters of a policy's name, which is part of file names."""


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
        require(len(name) <= NAME_LIMIT, "evaluate.checkpoints", f"a name has at most {NAME_LIMIT} characters", name)
        if name in named:
            raise ValueError(f"evaluate.checkpoints: names must differ, got {name!r} twice")
        check_policy_folder(str(folder), "evaluate.checkpoints" if cfg.evaluate.checkpoints else "policy.path")
        named[name] = str(folder.resolve())
    return named


async def evaluate(cfg: Config, checkpoints: Mapping[str, str], log: Callable[[str], None]) -> Evaluation:
    """Answer the held-out prompts with every policy at every temperature, and write the evaluation.

    All policies use the same seeds. Prompts are encoded and answers decoded by each policy's own tokenizer, chat
    template and stop tokens. Policies that differ in nothing but their weights use the same generators, one after
    another: their weights are published to the generators as in training. Measurements of the base are cached in
    `runs`.

    Args:
        checkpoints: policy directories by name, the base first.
        log: called with one line of text per measurement.
    """
    # The driver reads the weights from a directory, so they never come from another GPU.
    cfg = replace(cfg, generator=replace(cfg.generator, transfer="host"))
    source = build(cfg.task, cfg.seed)
    base = next(iter(checkpoints))
    cache = BaseCache(cfg, source.heldout(cfg.task.heldout_prompts), checkpoints[base])
    found = {
        name: _from_cache(cfg, cache, base, log) if name == base else dict.fromkeys(cfg.evaluate.temperatures)
        for name in checkpoints
    }
    unknown = [name for name in checkpoints if None in found[name].values()]
    max_length = cfg.sampling.max_prompt_tokens + cfg.sampling.max_new_tokens
    for paths in by_engine({name: checkpoints[name] for name in unknown}, max_length):
        roles = await cluster.start(cfg, ["generator", "grader"], policy_path=next(iter(paths.values())))
        try:
            async with Rollouts(roles.generators, roles.graders, cfg.generator.timeout_s) as rollouts:
                for version, (name, path) in enumerate(paths.items()):
                    await _publish(cfg, rollouts, path, version)
                    heldout = HeldOut(cfg, source, encoder(replace(cfg.policy, path=path)), rollouts)
                    for temperature in [t for t, known in found[name].items() if known is None]:
                        measured = await _measure(heldout, name, temperature)
                        found[name][temperature] = measured
                        if name == base:
                            cache.write(cfg.evaluate.answers, measured)
                        log(f"evaluate {name} at temperature {temperature:g}: {len(measured.rows)} answers")
        finally:
            await roles.close()
    evaluation = _evaluation(cfg, checkpoints, found)
    output = Path(cfg.evaluate.output) if cfg.evaluate.output else Path(cfg.runs) / cfg.name / "evaluation"
    rows = [row for name in found for measured in found[name].values() if measured for row in measured.rows]
    evaluation.write(output, rows)
    return evaluation


def _from_cache(cfg: Config, cache: BaseCache, base: str, log: Callable[[str], None]) -> dict[float, Measured | None]:
    """Return the cached measurements of the base by temperature; None where there is none."""
    found: dict[float, Measured | None] = {}
    for temperature in dict.fromkeys([*cfg.evaluate.temperatures, *cfg.evaluate.frontier]):
        found[temperature] = cache.read(cfg.evaluate.answers, temperature, base)
        if found[temperature] is not None:
            path = cache.path(cfg.evaluate.answers, temperature)
            log(f"evaluate {base} at temperature {temperature:g}: read from {path}")
    return found


async def _measure(heldout: HeldOut, name: str, temperature: float) -> Measured:
    answers = heldout.cfg.evaluate.answers
    groups = await heldout.answer(answers, temperature)
    return Measured.of(groups, measure(groups, name, 0, temperature, answers))


def _evaluation(
    cfg: Config, checkpoints: Mapping[str, str], found: Mapping[str, Mapping[float, Measured | None]]
) -> Evaluation:
    measurements = {
        name: {t: m.measurement for t, m in sorted(of_policy.items(), reverse=True) if m}
        for name, of_policy in found.items()
    }
    return Evaluation(
        base=next(iter(checkpoints)),
        ks=sorted({1, *cfg.evaluate.ks}),
        headline_k=cfg.evaluate.headline_k,
        temperatures=list(cfg.evaluate.temperatures),
        measurements=measurements,
        about={
            "task": cfg.task.name,
            "answers": cfg.evaluate.answers,
            "date": date.today().isoformat(),
            "paths": dict(checkpoints),
        },
    )


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


def run(options: argparse.Namespace, console: Console) -> None:
    """Evaluate `evaluate.checkpoints` and print the table of results."""
    cfg = config(options)
    evaluation = asyncio.run(evaluate(cfg, named_checkpoints(cfg), line_printer(console)))
    print_evaluation(evaluation, Console())
