"""Checkpoints: how often they are written, and which are kept."""

from dataclasses import dataclass

from configs.checks import require


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    every: int = 20
    """Steps between checkpoints; the last step always has one. 0: only the last."""
    keep_last: int = 2
    best_metric: str = "pass@1"
    """Monitored value whose best checkpoint is kept besides; empty: none."""

    def __post_init__(self) -> None:
        require(self.every >= 0, "checkpoint.every", "must not be negative", self.every)
        require(self.keep_last > 0, "checkpoint.keep_last", "must be positive", self.keep_last)
