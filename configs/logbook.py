"""The logbook: W&B, TensorBoard, console, and sampled trajectories."""

from dataclasses import dataclass
from typing import Literal

from configs.checks import require


@dataclass(frozen=True, kw_only=True)
class LogbookConfig:
    wandb: Literal["online", "offline", "disabled"] = "disabled"
    wandb_project: str = "breadth"
    tensorboard: bool = False
    console: bool = True
    trajectories_every: int = 10
    """Steps between samples written to trajectories.jsonl; 0: never."""
    trajectories: int = 8
    """Trajectories per sample."""

    def __post_init__(self) -> None:
        require(
            self.trajectories_every >= 0, "logbook.trajectories_every", "must not be negative", self.trajectories_every
        )
        require(self.trajectories > 0, "logbook.trajectories", "must be positive", self.trajectories)
