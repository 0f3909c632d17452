"""Run a recorded update again, in this process."""

import asyncio
from dataclasses import replace
from pathlib import Path

import torch

from actors.learning.learner import FsdpLearner
from actors.local import LocalLearner
from configs.config import Config
from objectives.diagnostics import Stats
from orchestrator.constructors import learner_arguments
from orchestrator.step_again.folder import START, RecordedStep


def run_again(folder: Path, cfg: Config, recorded: RecordedStep) -> RecordedStep:
    """Return the step as one learner rank computes it here, with as many threads as there.

    Args:
        cfg: the settings, in which `placement.device` says where.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(int(recorded.machine["threads"]))
    try:
        return asyncio.run(_run_again(folder, cfg, recorded))
    finally:
        torch.set_num_threads(threads)


async def _run_again(folder: Path, cfg: Config, recorded: RecordedStep) -> RecordedStep:
    config = replace(cfg.learner, context_parallel=1, replicas=1)
    arguments = learner_arguments(cfg) | {"config": config}
    if not cfg.learner.lora.r:  # The frozen weights below adapters are not in the folder.
        arguments["policy_path"] = str(folder / START / "policy")
    rank = FsdpLearner(**arguments)
    rank.join()
    learner = LocalLearner(rank, checksum=False)
    try:
        await learner.load(str(folder / START))
        before = await learner.score(recorded.batch)
        stats: Stats = await learner.update(recorded.batch, recorded.coefficients)
        after = await learner.score(recorded.batch)
    finally:
        await learner.close()
    assert before.logp_old is not None and before.entropy_old is not None and after.logp_old is not None
    scores = {"logp_before": before.logp_old, "entropy_before": before.entropy_old, "logp_after": after.logp_old}
    return replace(recorded, stats=stats, scores=scores)
