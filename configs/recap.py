"""How several objectives of one run are weighed against each other."""

from dataclasses import dataclass
from typing import Literal

from configs.checks import require


@dataclass(frozen=True, kw_only=True)
class RecapConfig:
    """RECAP (arXiv:2510.21978): each domain's reward, and the replay loss, by how far it still moves and sways."""

    window: int = 0
    """Steps of each of the two windows that are compared; weights are 1 until both are full. 0: off."""
    temperature: float = 5.0
    """T: the higher, the nearer to 1 all weights stay."""
    orientation: Literal["improving", "literal"] = "improving"
    """improving: convergence is recent over earlier mean for rewards and the inverse for the replay loss, above 1 for
    what gets better; literal: recent over earlier for both."""

    def __post_init__(self) -> None:
        require(self.window >= 0, "objective.recap.window", "must not be negative", self.window)
        require(self.temperature > 0, "objective.recap.temperature", "must be positive", self.temperature)
