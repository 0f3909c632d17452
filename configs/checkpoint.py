"""Checkpoints: how often they are written, and which are kept."""

from dataclasses import dataclass
from typing import Literal

from configs.checks import require_not_negative, require_positive


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints below `<run directory>/checkpoints`."""

    every: int = 20
    """Steps between checkpoints; the last step always has one. 0: only the last step."""
    keep_last: int = 2
    """Number of newest checkpoints that are kept."""
    best_metric: str = "pass@1"
    """Measured value whose best checkpoint is kept as well, a name of `docs/metrics.md` without `heldout/`; empty:
    none. With a `lag`, every measured step has a checkpoint at first, since its value comes a step later."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """dtype of the policy in a checkpoint. bfloat16: half the size; the float32 weights, from which a run is resumed,
    are then stored with the optimizer state."""

    def __post_init__(self) -> None:
        require_not_negative(self, "every")
        require_positive(self, "keep_last")
