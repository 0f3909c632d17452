"""Check what can be checked of a run before any role is started."""

from collections.abc import Callable

from configs.config import Config
from orchestrator.preflight.names import check_names
from orchestrator.preflight.prompts import check_prompts
from orchestrator.references import check_references
from rewards.registry import check as check_verifier
from tasks.registry import build
from tasks.source import Source


async def check_run(cfg: Config, report: Callable[[str], None]) -> Source:
    """Check the settings of a training run against its task, policy and machine, and return the task's source.

    Args:
        report: is called with each line of text about what was found.

    Raises:
        ValueError: a check failed; names the setting.
    """
    source = build(cfg.task, cfg.seed)
    heldout = source.heldout(cfg.task.heldout_prompts) if cfg.monitor.every else []
    check_references(cfg)
    check_names(cfg, heldout)
    check_verifier(source.prompt(0).verifier)
    check_prompts(cfg, source, heldout, report)
    return source
