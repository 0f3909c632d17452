"""Warm start: supervised training of a small policy on a task's own solutions."""

from dataclasses import dataclass, field

from configs.checks import require, require_positive
from configs.divergences import DIVERGENCES, check_alpha, check_name, check_supervised


@dataclass(frozen=True, kw_only=True)
class WarmStartConfig:
    """`breadth warm-start`: a new Qwen2 policy, trained by the same learner."""

    steps: int = 700
    """Optimizer steps."""
    batch: int = 256
    """Solutions per step."""
    output: str = ""
    """Directory of the policy to write."""
    divergence: str = field(default="forward_kl", metadata={"values": DIVERGENCES})
    """D(policy || data) at every token of a solution, where the data gives the token probability 1. forward_kl is cross
    entropy. It must be an f-divergence with a finite f'(inf)."""
    alpha: float = 0.2
    """Parameter of the divergence, as in `objective.terms.NAME.alpha`."""
    hidden_size: int = 96
    """Width of the residual stream, D; an even multiple of `heads`."""
    layers: int = 3
    """Number of transformer layers."""
    heads: int = 3
    """Number of attention heads."""
    intermediate_size: int = 256
    """Width of the feed-forward layers."""

    def __post_init__(self) -> None:
        require_positive(self, "steps", "batch", "hidden_size", "layers", "heads", "intermediate_size")
        check_name(self.divergence, "divergence")
        check_alpha(self.divergence, self.alpha, "alpha")
        check_supervised(self.divergence, self.alpha, "divergence")
        even = self.hidden_size % (2 * self.heads) == 0
        require(even, "hidden_size", f"must be an even multiple of heads ({self.heads})", self.hidden_size)
