"""Warm start: supervised training of a small policy."""

from dataclasses import dataclass

from configs.checks import require
from configs.supervised import check_supervised
from configs.terms import DivergenceName


@dataclass(frozen=True, kw_only=True)
class WarmStartConfig:
    """Supervised training of a small policy on a task's own solutions, through the same learner."""

    steps: int = 700
    batch: int = 256
    output: str = ""
    """Directory of the policy to write."""
    divergence: DivergenceName = "forward_kl"
    """D(policy || data) at every token of an answer, of which the data is certain; forward_kl: cross entropy."""
    alpha: float = 0.2
    """The parameter of a family, as in `objective.divergence.alpha`."""
    hidden_size: int = 96
    layers: int = 3
    heads: int = 3
    intermediate_size: int = 256

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "hidden_size", "layers", "heads", "intermediate_size"):
            require(getattr(self, name) > 0, f"warm_start.{name}", "must be positive", getattr(self, name))
        check_supervised("warm_start.divergence", self.divergence, "warm_start.alpha", self.alpha)
        require(0 < self.alpha < 1, "warm_start.alpha", "must be in (0, 1)", self.alpha)
        require(
            self.hidden_size % (2 * self.heads) == 0,
            "warm_start.hidden_size",
            "must be an even multiple of warm_start.heads",
            self.hidden_size,
        )
