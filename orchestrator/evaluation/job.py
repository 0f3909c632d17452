"""Measure Pass@k of any number of policies on the held-out prompts of one task, and write the evaluations."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from actors.local import init_host_weights, publish_host_weights
from actors.policy_files.reading import load_model
from actors.presence import Presence
from actors.weights.file_names import as_in_files, meta_in_files
from actors.weights.host import weights_info
from actors.weights.pieces import pieces_of
from configs.config import Config
from configs.heldout import Decoding
from configs.load import to_yaml
from orchestrator import cluster
from orchestrator.console.screen import Screen
from orchestrator.engine import with_engine
from orchestrator.evaluation.engines import by_engine
from orchestrator.evaluation.folders import check_name, new_folder
from orchestrator.evaluation.likelihoods import Likelihoods
from orchestrator.evaluation.scoring import scorable, score_all, with_kl
from orchestrator.manifest import SETTINGS
from orchestrator.preflight.evaluation import Posed, check_evaluation
from orchestrator.report.evaluation import SAMPLINGS, Evaluation
from orchestrator.rollout.agreement import check_same_policy, first_tokens
from orchestrator.rollout.encoding import PromptEncoder
from orchestrator.rollout.rollouts import Rollouts, rollouts_for
from orchestrator.sinks.evaluation_run import copy_evaluation
from orchestrator.watch.base_cache import BaseCache, Measured
from orchestrator.watch.measurement import measure
from orchestrator.watch.monitor import HeldOut
from tasks.changed import extraction_modes
from trajectories.atomic_write import replace_file
from trajectories.trajectory import Prompt

Found = dict[Decoding, Measured | None]
"""Measurements of one policy; None where one is missing."""


async def evaluate(
    cfg: Config, checkpoints: Mapping[str, str], log: Callable[[str], None], folder: Path | None = None
) -> list[Evaluation]:
    """Answer the held-out prompts with every policy in every sampling, and write the evaluations.

    All policies use the same seeds. Prompts are encoded and answers decoded by each policy's own tokenizer, chat
    template and stop tokens. Policies that differ in nothing but their weights use the same generators, one after
    another: their weights are published to the generators as in training. Measurements of the base are cached in
    `runs`.

    Args:
        checkpoints: policy directories by name, the base first.
        log: called with each line of text for the user.
        folder: of the first evaluation, which is replaced if there is one; each further one is in `samplings/NAME`
            below it. None: a new folder of the run, named by `evaluate.name`.

    Returns:
        One evaluation for each of `EvaluateConfig.decodings`, in this order.
    """
    cfg = with_engine(cfg, log)
    run_dir = Path(cfg.runs) / cfg.name
    if folder is None:
        check_name(run_dir, cfg.evaluate.name)
    posed = check_evaluation(cfg, checkpoints, log)
    found = await _measure_all(cfg, checkpoints, posed, log)
    likelihoods = await _score(cfg, checkpoints, posed, found, log)
    folder = folder or new_folder(run_dir, cfg.evaluate.name)
    log(f"evaluation {folder}")
    Screen.of(log).keep(folder)
    written = []
    for number, name in enumerate(cfg.evaluate.decodings(cfg.sampling)):
        place, scores = (folder / SAMPLINGS / name, None) if number else (folder, likelihoods)
        written.append(_write(cfg, checkpoints, posed, found, name, place, scores))
    with replace_file(folder / SETTINGS) as file:
        file.write(to_yaml(cfg).encode())
    first = written[0]
    values = {name: of_policy[first.sampling.temperature] for name, of_policy in first.summaries.items()}
    await asyncio.to_thread(copy_evaluation, cfg, folder, values, log)
    return written


async def _measure_all(
    cfg: Config, checkpoints: Mapping[str, str], posed: Posed, log: Callable[[str], None]
) -> dict[str, Found]:
    """Measure every policy in every sampling; the base only where it is not in the cache."""
    decodings = cfg.evaluate.decodings(cfg.sampling)
    longest = max(decoding.max_new_tokens for of_name in decodings.values() for decoding in of_name)
    # The driver reads the weights from a directory, so they never come from another GPU. No monitor measures here.
    cfg = replace(
        cfg,
        generator=replace(cfg.generator, transfer="host"),
        sampling=replace(cfg.sampling, max_new_tokens=longest),
        monitor=replace(cfg.monitor, every=0),
    )
    base, screen = next(iter(checkpoints)), Screen.of(log)
    cache = BaseCache(cfg, posed.prompts, checkpoints[base])
    found = {name: _wanted(cfg, list(decodings.values()), name == base) for name in checkpoints}
    _read_cache(cfg, cache, base, found[base], log)
    unknown = [name for name in checkpoints if None in found[name].values()]
    max_length = cfg.sampling.max_prompt_tokens + longest
    for paths in by_engine({name: checkpoints[name] for name in unknown}, max_length):
        with screen.phase(f"starting generator ({cfg.generator.engine}), grader", "started the roles"):
            roles = await cluster.start(cfg, ["generator", "grader"], policy_path=next(iter(paths.values())))
        try:
            async with rollouts_for(cfg, roles.generators, roles.graders) as rollouts:
                for version, (name, path) in enumerate(paths.items()):
                    await _publish_checked(cfg, rollouts, path, version, (posed.prompts[0], posed.encoders[name]))
                    heldout = HeldOut(cfg, posed.source, posed.encoders[name], rollouts)
                    for decoding in [decoding for decoding, known in found[name].items() if known is None]:
                        what = f"{name} at {decoding.words()}"
                        with screen.phase(f"evaluating {what}", f"evaluate {what}", brief=True) as phase:
                            measured = await _measure(heldout, name, decoding)
                            phase.done += f": {len(measured.rows)} answers"
                        found[name][decoding] = measured
                        if name == base:
                            cache.write(cfg.evaluate.answers, decoding, measured)
        finally:
            await roles.close()
    return found


async def _score(
    cfg: Config, checkpoints: Mapping[str, str], posed: Posed, found: Mapping[str, Found], log: Callable[[str], None]
) -> Likelihoods | None:
    """Score the answers under the first sampling with every policy, and add the KL to the base to the measurements.

    Returns:
        None if there is no KL, or nothing to compare. Also if scoring failed, as where no GPU holds a whole policy: the
        answers are worth more than their KL.
    """
    decoding = cfg.evaluate.scored(cfg.sampling)
    if decoding is None or len(checkpoints) == 1:
        return None
    names = scorable(checkpoints, posed, cfg.sampling.max_prompt_tokens + decoding.max_new_tokens, log)
    measured = {name: m for name in names if (m := found[name][decoding])}
    if not measured:
        return None
    answers = {name: m.rows for name, m in measured.items()}
    try:
        likelihoods = await score_all(cfg, {name: checkpoints[name] for name in names}, answers, posed, decoding, log)
    except (ValueError, RuntimeError, OSError) as error:
        log(f"no KL to {names[0]}, as the answers could not be scored (evaluate.kl_to_base=false omits it): {error}")
        return None
    for name, m in measured.items():
        found[name][decoding] = replace(m, measurement=with_kl(m.measurement, likelihoods))
    return likelihoods


def _wanted(cfg: Config, decodings: Sequence[Sequence[Decoding]], is_base: bool) -> Found:
    """Return None for each decoding at which a policy is measured; the base also at the temperatures of `frontier`."""
    wanted: list[Decoding] = []
    for of_name in decodings:
        wanted += of_name
        wanted += [replace(of_name[0], temperature=t) for t in cfg.evaluate.frontier] if is_base else []
    return dict.fromkeys(wanted)


def _read_cache(cfg: Config, cache: BaseCache, base: str, found: Found, log: Callable[[str], None]) -> None:
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
    posed: Posed,
    found: Mapping[str, Found],
    sampling: str,
    folder: Path,
    likelihoods: Likelihoods | None,
) -> Evaluation:
    """Write the evaluation under the sampling of this name."""
    base, decodings = next(iter(checkpoints)), cfg.evaluate.decodings(cfg.sampling)[sampling]
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
            "sampling": sampling,
            "extraction": " and ".join(extraction_modes(posed.prompts)),
            "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
            "paths": dict(checkpoints),
            "first_prompt": posed.first,
        },
        likelihoods=likelihoods,
    )
    evaluation.write(folder, [row for of_policy in chosen.values() for m in of_policy.values() for row in m.rows])
    return evaluation


async def _publish_checked(
    cfg: Config, rollouts: Rollouts, path: str, version: int, first: tuple[Prompt, PromptEncoder]
) -> None:
    """Publish a policy. The first one is that with which the engine was started, so it must answer as before."""
    if version:
        await _publish(cfg, rollouts, path, version)
        return
    before = await first_tokens(cfg, *first, rollouts)
    await _publish(cfg, rollouts, path, version)
    check_same_policy(cfg, before, await first_tokens(cfg, *first, rollouts), path)


async def _publish(cfg: Config, rollouts: Rollouts, path: str, version: int) -> None:
    model = load_model(path)
    model = {"float32": model.float, "bfloat16": model.bfloat16}[cfg.policy.dtype]()
    info = weights_info(meta_in_files(model, model.dtype))
    if version == 0:
        await init_host_weights(rollouts.generators, info)
    pieces = pieces_of(model, model.dtype)
    for number, piece in enumerate(pieces, 1):
        named = [(name, p) for name, p in model.named_parameters() if name in piece.parameters]
        packed = piece.packed(info, as_in_files(model, named), version, cfg.generator.checksum)
        weights = cluster.store_once(cfg, packed)
        await publish_host_weights(Presence(rollouts.generators), weights, version, last=number == len(pieces))
        del packed, weights  # memory and Ray's object store hold one piece at a time
