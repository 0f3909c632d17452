"""The task: which problems are posed, and who judges the answers."""

from dataclasses import dataclass, field
from typing import Any

from configs.checks import require


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    name: str = "countdown"
    """A name of `tasks/registry.py`: countdown, scratchpad_addition, sql_questions, programs, dataset (rows of files),
    or mixture."""
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of the task's own dataclass, checked by the task."""
    verifier: str = ""
    """Overrides the task's verifier: a name of `rewards/registry.py` or an import path `package.module:function`."""
    heldout_prompts: int = 64
    """Prompts of the held-out stream on which the monitor and `breadth evaluate` measure Pass@k."""

    def __post_init__(self) -> None:
        require(self.heldout_prompts > 0, "task.heldout_prompts", "must be positive", self.heldout_prompts)
