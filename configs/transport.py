"""Entropic optimal transport as settings."""

from dataclasses import dataclass

from configs.checks import require


@dataclass(frozen=True, kw_only=True)
class TransportConfig:
    """Of wasserstein (arXiv:2602.01685), between tokens, and of batch_sinkhorn (arXiv:2402.17110), between rows."""

    epsilon: float = 0.01
    """Of the kernel exp(-cost / epsilon): the larger, the more the plan is spread."""
    neighbours: int = 512
    """wasserstein: mass moves between a token and so many others that are nearest to it; 0: nowhere."""
    iterations: int = 10
    """Sweeps over both marginals."""

    def __post_init__(self) -> None:
        field_ = "objective.divergence.transport."
        require(self.epsilon > 0, field_ + "epsilon", "must be positive", self.epsilon)
        require(self.neighbours >= 0, field_ + "neighbours", "must not be negative", self.neighbours)
        require(self.iterations > 0, field_ + "iterations", "must be positive", self.iterations)


def check_potential(name: str, wiring: str, *, anchor: str, top: int, normalised: bool) -> None:
    """Refuse what has no reading for `wasserstein`."""
    if name != "wasserstein":
        return
    field_ = "objective.divergence."
    rule = "must be 'joint' or 'vocabulary' for wasserstein, which compares whole distributions"
    require(wiring in ("joint", "vocabulary"), field_ + "wiring", rule, wiring)
    rule = "must be a reference: the distributions of the policy that gave the answers are not kept"
    require(anchor != "old", field_ + "anchor", rule, anchor)
    rule = "must be positive for wasserstein, whose costs are a matrix over these tokens at every position"
    require(top > 0, field_ + "top", rule, top)
    require(not normalised, field_ + "normalised", "must be false for wasserstein, which has no f", normalised)
