"""Measure Pass@k of policies on the held-out prompts of tasks, any number of both, and write the evaluations."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from configs.config import Config
from configs.load import to_yaml
from orchestrator.console.screen import Screen
from orchestrator.engine import with_engine
from orchestrator.evaluation.asked import Asked, asked_tasks
from orchestrator.evaluation.folders import check_name, held, new_folder, one_job
from orchestrator.evaluation.likelihoods import Likelihoods
from orchestrator.evaluation.measuring import Measuring
from orchestrator.evaluation.progress import STREAM, Progress
from orchestrator.evaluation.scoring import scorable, score_all, with_kl
from orchestrator.evaluation.writing import discard, write_all
from orchestrator.heldout.answer_table import scored_rows
from orchestrator.report.evaluation import Evaluation
from orchestrator.sinks.evaluation_run import copy_evaluation


async def evaluate(
    cfg: Config, checkpoints: Mapping[str, str], log: Callable[[str], None], folder: Path | None = None
) -> list[Evaluation]:
    """Answer the held-out prompts of every task with every policy in every sampling, and write the evaluations.

    All policies use the same seeds. Prompts are encoded and answers decoded by each policy's own tokenizer, chat
    template and stop tokens. Policies that differ in nothing but their weights use the same generators, one after
    another: their weights are published to the generators as in training. Measurements are cached in `runs`, and one
    that was interrupted goes on after the prompts that were done. Roles that are lost are started again.

    Args:
        checkpoints: policy directories by name, the base first.
        log: called with each line of text for the user.
        folder: of the first evaluation, which is replaced if there is one; each further one is in `samplings/NAME` or
            `tasks/NAME` below it. None: a folder of the run, named by `evaluate.name`.

    Returns:
        One evaluation for each of `EvaluateConfig.decodings`, in this order, then one for each of `evaluate.tasks`.
    """
    cfg = with_engine(cfg, log)
    run_dir = Path(cfg.runs) / cfg.name
    if folder is None:
        check_name(run_dir, cfg.evaluate.name)
    with held(checkpoints, run_dir, log) as places:
        return await _evaluate(cfg, checkpoints, places, log, folder)


async def _evaluate(
    cfg: Config,
    checkpoints: Mapping[str, str],
    places: Mapping[str, str],
    log: Callable[[str], None],
    folder: Path | None,
) -> list[Evaluation]:
    """Evaluate the policies of `places`, directories by name, which `checkpoints` has where they are known by."""
    run_dir = Path(cfg.runs) / cfg.name
    asked = asked_tasks(cfg, places, log)
    folder = folder or new_folder(run_dir, cfg.evaluate.name, to_yaml(cfg))
    log(f"evaluation {folder}")
    Screen.of(log).keep(folder)
    with one_job(folder), Progress(folder / STREAM, log) as progress:
        measuring = Measuring(cfg, dict(places), asked, folder, progress, log)
        try:
            await measuring.all()
            likelihoods = await _score(cfg, measuring, asked[0], log)
            measuring.checkpoints = {name: checkpoints[name] for name in places}
            written = write_all(cfg, measuring, folder, likelihoods)
        finally:
            discard(measuring.found)
    await asyncio.to_thread(copy_evaluation, cfg, folder, written[0].at_first_temperature, log)
    return written


async def _score(cfg: Config, measuring: Measuring, asked: Asked, log: Callable[[str], None]) -> Likelihoods | None:
    """Score the answers under the first sampling with every policy, and add the KL to the base to the measurements.

    Returns:
        None if there is no KL, or nothing to compare. Also if scoring failed, as where no GPU holds a whole policy, or
        a reference was lost and its restarts are used up: the answers are worth more than their KL.
    """
    decoding, checkpoints = cfg.evaluate.scored(cfg.sampling), measuring.checkpoints
    if decoding is None or len(checkpoints) == 1:
        return None
    posed, found = asked.posed, measuring.found[asked.name]
    names = scorable(checkpoints, posed, cfg.sampling.max_prompt_tokens + decoding.max_new_tokens, log)
    measured = {name: m for name in names if (m := found[name][decoding])}
    if not measured:
        return None
    answers = {name: scored_rows(m.answers) for name, m in measured.items()}
    scoring = {name: checkpoints[name] for name in names}
    try:
        likelihoods = await score_all(cfg, scoring, answers, posed, decoding, measuring.folder, log)
    except (ValueError, RuntimeError, OSError) as error:
        log(f"no KL to {names[0]}, as the answers could not be scored (evaluate.kl_to_base=false omits it): {error}")
        return None
    for name, m in measured.items():
        found[name][decoding] = replace(m, measurement=with_kl(m.measurement, likelihoods))
    return likelihoods
