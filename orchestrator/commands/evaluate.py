"""`breadth evaluate`: measure Pass@k of any number of policies on the held-out prompts of one task."""

import argparse
import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from actors.learning.policy import check_policy_folder, load_model
from actors.local import init_host_weights, publish_host_weights
from actors.weights.file_names import as_in_files
from actors.weights.host import pack, weights_info
from configs.checks import require
from configs.config import Config
from configs.heldout import Decoding
from orchestrator import cluster
from orchestrator.commands.options import config, line_printer
from orchestrator.commands.paths import split_name
from orchestrator.evaluation.engines import by_engine
from orchestrator.report.evaluation import SAMPLINGS, Evaluation
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


async def evaluate(
    cfg: Config, checkpoints: Mapping[str, str], folder: Path, log: Callable[[str], None]
) -> list[Evaluation]:
    """Answer the held-out prompts with every policy in every sampling, and write the evaluations.

    All policies use the same seeds. Prompts are encoded and answers decoded by each policy's own tokenizer, chat
    template and stop tokens. Policies that differ in nothing but their weights use the same generators, one after
    another: their weights are published to the generators as in training. Measurements of the base are cached in
    `runs`.

    Args:
        checkpoints: policy directories by name, the base first.
        folder: of the first evaluation; each further one is in `samplings/NAME` below it.
        log: called with one line of text per measurement.

    Returns:
        One evaluation for each of `EvaluateConfig.decodings`, in this order.
    """
    decodings = cfg.evaluate.decodings(cfg.sampling)
    longest = max(decoding.max_new_tokens for of_name in decodings.values() for decoding in of_name)
    # The driver reads the weights from a directory, so they never come from another GPU. No monitor measures here.
    cfg = replace(
        cfg,
        generator=replace(cfg.generator, transfer="host"),
        sampling=replace(cfg.sampling, max_new_tokens=longest),
        monitor=replace(cfg.monitor, every=0),
    )
    source = build(cfg.task, cfg.seed)
    base = next(iter(checkpoints))
    cache = BaseCache(cfg, source.heldout(cfg.task.heldout_prompts), checkpoints[base])
    found = {name: _wanted(cfg, list(decodings.values()), name == base) for name in checkpoints}
    _read_cache(cfg, cache, base, found[base], log)
    unknown = [name for name in checkpoints if None in found[name].values()]
    max_length = cfg.sampling.max_prompt_tokens + longest
    for paths in by_engine({name: checkpoints[name] for name in unknown}, max_length):
        roles = await cluster.start(cfg, ["generator", "grader"], policy_path=next(iter(paths.values())))
        try:
            async with Rollouts(roles.generators, roles.graders, cfg.generator.timeout_s) as rollouts:
                for version, (name, path) in enumerate(paths.items()):
                    await _publish(cfg, rollouts, path, version)
                    heldout = HeldOut(cfg, source, encoder(replace(cfg.policy, path=path)), rollouts)
                    for decoding in [decoding for decoding, known in found[name].items() if known is None]:
                        measured = await _measure(heldout, name, decoding)
                        found[name][decoding] = measured
                        if name == base:
                            cache.write(cfg.evaluate.answers, decoding, measured)
                        log(f"evaluate {name} at {decoding.words()}: {len(measured.rows)} answers")
        finally:
            await roles.close()
    return [
        _write(cfg, checkpoints, found, of_name, folder / SAMPLINGS / name if number else folder)
        for number, (name, of_name) in enumerate(decodings.items())
    ]


def _wanted(cfg: Config, decodings: Sequence[Sequence[Decoding]], is_base: bool) -> dict[Decoding, Measured | None]:
    """Return None for each decoding at which a policy is measured; the base also at the temperatures of `frontier`."""
    wanted: list[Decoding] = []
    for of_name in decodings:
        wanted += of_name
        wanted += [replace(of_name[0], temperature=t) for t in cfg.evaluate.frontier] if is_base else []
    return dict.fromkeys(wanted)


def _read_cache(
    cfg: Config, cache: BaseCache, base: str, found: dict[Decoding, Measured | None], log: Callable[[str], None]
) -> None:
    """Fill in the cached measurements of the base."""
    for decoding in found:
        found[decoding] = cache.read(cfg.evaluate.answers, decoding, base)
        if found[decoding] is not None:
            log(f"evaluate {base} at {decoding.words()}: read from {cache.path(cfg.evaluate.answers, decoding)}")


async def _measure(heldout: HeldOut, name: str, decoding: Decoding) -> Measured:
    answers = heldout.cfg.evaluate.answers
    groups = await heldout.answer(answers, decoding)
    return Measured.of(groups, measure(groups, name, 0, decoding.temperature, answers))


def _write(
    cfg: Config,
    checkpoints: Mapping[str, str],
    found: Mapping[str, Mapping[Decoding, Measured | None]],
    decodings: Sequence[Decoding],
    folder: Path,
) -> Evaluation:
    """Write the evaluation of decodings that differ in temperature only, and of the base at further temperatures."""
    base = next(iter(checkpoints))
    chosen = {
        name: {
            decoding.temperature: measured
            for decoding in sorted(_wanted(cfg, [decodings], name == base), key=lambda d: -d.temperature)
            if (measured := of_policy[decoding])
        }
        for name, of_policy in found.items()
    }
    evaluation = Evaluation(
        base=base,
        ks=sorted({1, *cfg.evaluate.ks}),
        headline_k=cfg.evaluate.headline_k,
        sampling=decodings[0],
        temperatures=[decoding.temperature for decoding in decodings],
        measurements={name: {t: m.measurement for t, m in of_policy.items()} for name, of_policy in chosen.items()},
        about={
            "task": cfg.task.name,
            "answers": cfg.evaluate.answers,
            "date": date.today().isoformat(),
            "paths": dict(checkpoints),
        },
    )
    evaluation.write(folder, [row for of_policy in chosen.values() for m in of_policy.values() for row in m.rows])
    return evaluation


def _parameters(cfg: Config, path: str) -> list[tuple[str, Any]]:
    model = load_model(path)
    dtype = {"float32": model.float, "bfloat16": model.bfloat16}[cfg.policy.dtype]
    return list(as_in_files(model, ((name, p.detach()) for name, p in dtype().named_parameters())))


async def _publish(cfg: Config, rollouts: Rollouts, path: str, version: int) -> None:
    parameters = _parameters(cfg, path)
    if version == 0:
        await init_host_weights(rollouts.generators, weights_info(parameters))
    weights = cluster.store_once(cfg, pack(parameters, version, cfg.generator.checksum))
    await publish_host_weights(rollouts.generators, weights, version)


def run(options: argparse.Namespace, console: Console) -> None:
    """Evaluate `evaluate.checkpoints` and print the table of results."""
    cfg = config(options)
    folder = Path(cfg.evaluate.output) if cfg.evaluate.output else Path(cfg.runs) / cfg.name / "evaluation"
    for evaluation in asyncio.run(evaluate(cfg, named_checkpoints(cfg), folder, line_printer(console))):
        print_evaluation(evaluation, Console())
