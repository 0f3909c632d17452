"""Record the updates of `logbook.dump_steps` by wrapping the learner, so that the training loop knows nothing of it."""

import asyncio
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch

from actors.contracts import Learner
from configs.config import Config
from configs.load import to_yaml
from objectives.diagnostics import Stats
from orchestrator import checkpoint
from orchestrator.connection import own_cores
from orchestrator.devices.environment import environment
from orchestrator.manifest import SETTINGS, folder_name
from orchestrator.placement import needed_roles
from orchestrator.step_again.comparison import machine_of
from orchestrator.step_again.folder import START, RecordedStep, write
from orchestrator.watch.logbook import Logbook
from trajectories.atomic_write import finish_folder, partial_folder
from trajectories.batch import Batch

FOLDER = "steps"
"""Folder of a run with its recorded steps."""


class Training(Protocol):
    """What is read of a run."""

    cfg: Config
    run_dir: Path
    learner: Learner
    step: int
    saved_step: int
    checkpoints: checkpoint.Writer
    logbook: Logbook


def record_updates(run: Training) -> None:
    """Replace the learner's `update` by one that also records the steps of `logbook.dump_steps`.

    If the disk fails, the run goes on without the record, with an alert.
    """
    update, learner = run.learner.update, run.learner

    async def recorded(batch: Batch, coefficients: Mapping[str, float]) -> Stats:
        step, before = run.step + 1, batch
        if step not in run.cfg.logbook.dump_steps:
            return await update(batch, coefficients)
        target = run.run_dir / FOLDER / folder_name(step)
        partial: Path | None = None
        try:
            partial = await asyncio.to_thread(partial_folder, target)
            await _save_start(run, partial)
            before = await learner.score(batch)
        except OSError as error:
            _report(run, target, partial, error)
            partial = None
        stats = await update(batch, coefficients)
        if partial is None:
            return stats
        after = await learner.score(batch)
        assert before.logp_old is not None and before.entropy_old is not None and after.logp_old is not None
        found = RecordedStep(
            step=step,
            batch=batch,
            coefficients=coefficients,
            stats=stats,
            scores={
                "logp_before": before.logp_old,
                "entropy_before": before.entropy_old,
                "logp_after": after.logp_old,
            },
            machine=machine_of(run.cfg.placement.device, _threads(run.cfg), run.cfg.placement.learners),
        )
        try:
            await asyncio.to_thread(_finish, partial, target, found, run.cfg)
        except OSError as error:
            _report(run, target, partial, error)
        return stats

    if run.cfg.logbook.dump_steps:
        setattr(learner, "update", recorded)  # noqa: B010


async def _save_start(run: Training, partial: Path) -> None:
    """Save policy and optimizer before the update: from the checkpoint of the step before, or from the learner."""
    await run.checkpoints.finish()  # The learner writes one set of files at a time.
    saved = run.run_dir / "checkpoints" / folder_name(run.step)
    if run.saved_step == run.step and saved.is_dir():
        await asyncio.to_thread(_link, saved, partial / START)
    else:
        await run.learner.save(str(partial / START))
        await run.learner.saved()


def _link(saved: Path, start: Path) -> None:
    """Give the files of a checkpoint a second name, under which they stay when the checkpoint is removed."""
    for name in ("policy", "optimizer"):
        shutil.copytree(saved / name, start / name, copy_function=_link_or_copy)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # The file system has no links.
        shutil.copy2(source, target)


def _finish(partial: Path, target: Path, found: RecordedStep, cfg: Config) -> None:
    (partial / SETTINGS).write_text(to_yaml(cfg))
    write(partial, found)
    finish_folder(partial, target)


def _report(run: Training, target: Path, partial: Path | None, error: OSError) -> None:
    if partial is not None:
        shutil.rmtree(partial, ignore_errors=True)
    run.logbook.alert("dump_steps", f"{target} could not be written, and the run goes on without it: {error}")


def _threads(cfg: Config) -> int:
    """Return the threads of the learner's process on a CPU."""
    if cfg.placement.kind == "in_process":
        return torch.get_num_threads()
    on_gpu = cfg.placement.device == "gpu"
    variables = environment(cfg, "learner", gpu=on_gpu, names=needed_roles(cfg), cores=own_cores())
    return int(variables["OMP_NUM_THREADS"])
