"""One named reference as settings: which policy it is at first, and when it follows the one being trained."""

from dataclasses import dataclass, field
from typing import Literal

from configs.checks import require


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig:
    path: str = ""
    """Directory of a Hugging Face policy with the same vocabulary; empty: the starting policy."""
    soup: dict[str, float] = field(default_factory=dict)
    """Directories and their weights, which add up to 1: the reference is the average of their weights (SALSA,
    arXiv:2411.01798); in the place of `path`."""
    update: Literal["fixed", "periodic", "kl"] = "fixed"
    """periodic: every so many steps (TR-DPO, arXiv:2404.09656); kl: when the policy has drifted far (RPG,
    arXiv:2505.17508)."""
    every: int = 1
    """periodic: steps between two updates."""
    share: float = 1.0
    """How far an update goes: reference <- share * policy + (1 - share) * reference; 1 puts the policy in its place."""
    threshold: float = 0.1
    """kl: nats per token; the mean KL to the reference, smoothed over some 10 steps, at which it is updated."""

    def __post_init__(self) -> None:
        where = "references.NAME."
        if self.soup:
            require(not self.path, f"{where}path", "must be empty beside a soup", self.path)
            rule = "must have positive weights that add up to 1"
            good = all(weight > 0 for weight in self.soup.values()) and abs(sum(self.soup.values()) - 1) < 1e-6
            require(good, f"{where}soup", rule, dict(self.soup))
        require(self.every > 0, f"{where}every", "must be positive", self.every)
        require(0 < self.share <= 1, f"{where}share", "must be in (0, 1]", self.share)
        require(self.threshold > 0, f"{where}threshold", "must be positive", self.threshold)

    @property
    def moves(self) -> bool:
        return self.update != "fixed"
