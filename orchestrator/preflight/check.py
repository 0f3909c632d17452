"""Check what can be checked of a run before any role is started."""

from collections.abc import Callable

from configs.config import Config
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
    check_verifier(source.prompt(0).verifier)
    check_references(cfg)
    check_prompts(cfg, source, report)
    return source
