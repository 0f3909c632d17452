"""Entropic optimal transport: the constants of wasserstein and batch_sinkhorn."""

from dataclasses import dataclass

from configs.checks import require_not_negative, require_positive

BLOCK = 32
"""Successive trained tokens of an answer whose rows batch_sinkhorn compares with each other."""


@dataclass(frozen=True, kw_only=True)
class TransportConfig:
    """Sinkhorn's algorithm: between tokens for wasserstein (WPR, arXiv:2602.01685), between the rows of a block for
    batch_sinkhorn (SinKD, arXiv:2402.17110)."""

    epsilon: float = 0.01
    """Entropic regularisation, of the kernel exp(-cost / epsilon): the larger, the more the plan is spread."""
    neighbours: int = 512
    """wasserstein: number of nearest tokens to which the mass of a token can move; 0: none."""
    iterations: int = 10
    """Sweeps of Sinkhorn over both marginals."""

    def __post_init__(self) -> None:
        require_positive(self, "epsilon", "iterations")
        require_not_negative(self, "neighbours")
