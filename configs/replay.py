"""Replay: right answers of a task that are trained on beside the policy's own answers."""

from dataclasses import dataclass, field
from typing import Any

from configs.checks import require, require_positive


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Right answers of a task, used when `objective.replay_weight` is above 0."""

    task: str = ""
    """Task whose right answers are replayed, a name of `tasks/registry.py` (dataset for your own rows); empty: the
    run's task."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of that task, as in `task.options`."""
    batch: int = 64
    """Replayed answers per step."""

    def __post_init__(self) -> None:
        require_positive(self, "batch")
        rule = "must be left out without task: the run's task has its own options"
        require(bool(self.task) or not self.options, "options", rule, self.options)
