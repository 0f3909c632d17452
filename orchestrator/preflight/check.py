"""Check what can be checked of a run before any role is started."""

from collections.abc import Callable
from typing import NamedTuple

from actors.policy_files.writing import check_saving
from configs.config import Config
from configs.task import TaskConfig
from orchestrator.heldout.other_tasks import check_other_tasks
from orchestrator.preflight.names import check_names
from orchestrator.preflight.prompts import check_prompts
from orchestrator.preflight.rewards import check_reward_names, check_rewards
from orchestrator.preflight.rows import check_rows
from orchestrator.rollout.encoding import PromptEncoder
from orchestrator.stored.solutions import solutions_of
from tasks.changed import with_extraction
from tasks.options import settings_named
from tasks.registry import build
from tasks.source import Source


class Checked(NamedTuple):
    """What the checks of a run have read, for the run to use."""

    source: Source
    encode: PromptEncoder


async def check_run(cfg: Config, report: Callable[[str], None]) -> Checked:
    """Check the settings of a training run against its task, policy and data, and return the task and the tokenizer.

    `named.check_training` comes before, which loads no torch.

    Args:
        report: is called with each line of text about what was found.

    Raises:
        ValueError: a check failed; names the setting.
    """
    source = build(cfg.task, cfg.seed)
    measured = with_extraction(source, cfg.monitor.extraction, "monitor.extraction")
    heldout = measured.heldout(cfg.task.heldout_prompts) if cfg.monitor.every else []
    check_names(cfg, heldout)
    check_reward_names(cfg, source)
    encode = check_prompts(cfg, source, heldout, report)
    check_other_tasks(cfg, encode)
    await check_rewards(cfg, source, encode, report)
    await check_rows(cfg, cfg.task, source, encode, report)
    if cfg.objective.replays and cfg.replay.task:
        replayed = TaskConfig(name=cfg.replay.task, options=cfg.replay.options)
        with settings_named("replay.task", "replay.options"):
            await check_rows(cfg, replayed, build(replayed, cfg.seed), encode, report)
    if cfg.objective.imitates:
        solutions_of(cfg, source, encode)
    check_saving(cfg.policy.path, encode.tokenizer)
    return Checked(source, encode)
