"""Answers at the length limit: a soft punishment, or no part in the loss (DAPO)."""

from dataclasses import dataclass

from configs.checks import require, require_not_negative, require_positive


@dataclass(frozen=True, kw_only=True)
class OverlongConfig:
    """Answers at the length limit: the soft overlong punishment of DAPO (arXiv:2503.14476, equation 13), which is added
    to the reward of every answer, and its overlong filtering."""

    limit: int = 0
    """Answer length in tokens at which it is greatest (L_max); 0: off."""
    fraction: float = 0.2
    """Fraction of `limit` below it over which it grows from 0 (L_cache / L_max)."""
    penalty: float = 0.5
    """Greatest punishment. The paper's is 1, for rewards of -1 and 1; 0.5 is as much for rewards of 0 and 1."""
    mask: bool = False
    """Leave out of the loss every answer that was cut off at `sampling.max_new_tokens` (overlong filtering). Its reward
    still counts in the baseline of its group."""

    def __post_init__(self) -> None:
        require_not_negative(self, "limit")
        require_positive(self, "penalty")
        require(0 < self.fraction <= 1, "fraction", "must be in (0, 1]", self.fraction)
