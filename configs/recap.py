"""RECAP: weights of several objectives of one run, from how far each still moves and how much it varies."""

from dataclasses import dataclass
from typing import Literal

from configs.checks import require_not_negative, require_positive


@dataclass(frozen=True, kw_only=True)
class RecapConfig:
    """Dynamic weights (RECAP, arXiv:2510.21978) of each domain's reward and of the replay loss; of each of several
    rewards of an answer, instead of each domain's, where `objective.combine` is not weighted_sum."""

    window: int = 0
    """Steps of each of the two windows that are compared. All weights are 1 until both are full. 0: off."""
    temperature: float = 5.0
    """Temperature T of the softmax over objectives: the higher, the closer all weights are to 1."""
    orientation: Literal["improving", "literal"] = "improving"
    """Convergence rate. improving: recent mean over earlier mean for rewards and its inverse for the replay loss, so
    that it is above 1 for whatever improves; literal: recent over earlier mean for both."""

    def __post_init__(self) -> None:
        require_not_negative(self, "window")
        require_positive(self, "temperature")
