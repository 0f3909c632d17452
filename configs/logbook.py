"""The logbook: W&B, TensorBoard, console, and sampled trajectories."""

from dataclasses import dataclass
from typing import Literal

from configs.checks import require_not_negative, require_positive


@dataclass(frozen=True, kw_only=True)
class LogbookConfig:
    """Where metrics go besides `metrics.jsonl`."""

    wandb: Literal["online", "offline", "disabled"] = "disabled"
    """Mode of Weights & Biases; a resumed run continues under the same id."""
    wandb_project: str = "breadth"
    """W&B project."""
    tensorboard: bool = False
    """Write TensorBoard events into the run directory."""
    console: bool = True
    """Show the steps on the console."""
    trajectories_every: int = 10
    """Steps between samples of trajectories written to trajectories.jsonl; 0: no samples."""
    trajectories: int = 8
    """Trajectories per sample."""

    def __post_init__(self) -> None:
        require_not_negative(self, "trajectories_every")
        require_positive(self, "trajectories")
