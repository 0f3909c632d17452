"""Which right answers are replayed, and how many."""

from dataclasses import dataclass, field
from typing import Any

from configs.checks import require


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Right answers to learn beside the policy's own; used when `objective.replay_weight` is above 0."""

    task: str = ""
    """The task whose right answers they are, a name of `tasks/registry.py`: dataset for rows of your own; empty: the
    run's task."""
    options: dict[str, Any] = field(default_factory=dict)
    """Its options, as in `task.options`."""
    batch: int = 64
    """Answers per step."""

    def __post_init__(self) -> None:
        require(self.batch > 0, "replay.batch", "must be positive", self.batch)
        rule = "must be left out without replay.task: the run's task has options of its own"
        require(bool(self.task) or not self.options, "replay.options", rule, self.options)
