"""The policy gradient: clipping of the importance ratio, weights on tokens and answers, correction of the engine."""

from dataclasses import dataclass
from typing import Literal

from configs.checks import require, require_not_negative, require_positive


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Clipping of the importance ratio."""

    kind: Literal["ratio", "kl3", "cispo", "none"] = "ratio"
    """ratio: PPO's clipped surrogate; kl3: its bounds are the two roots of rho - 1 - log rho = delta (ATR-GRPO); cispo:
    the clipped ratio is detached and weighs log pi, so that no token loses its gradient; none: not clipped."""
    low: float = 0.2
    """The ratio is clipped to [1 - low, 1 + high]; 1: no lower bound."""
    high: float = 0.2
    """Upper clip range; above `low` it is DAPO's clip-higher."""
    dual: float | None = None
    """Dual clip: with a negative advantage A the surrogate is at least dual * A; above 1. null: off."""
    delta: float = 0.03
    """kl3: bound on rho - 1 - log rho."""

    def __post_init__(self) -> None:
        require(0 < self.low <= 1, "low", "must be in (0, 1]", self.low)
        require_positive(self, "high", "delta")
        require(self.dual is None or self.dual > 1, "dual", "must be above 1 or null", self.dual)
        clips = self.dual is None or self.kind in ("ratio", "kl3")
        require(clips, "dual", f"must be null for kind={self.kind}", self.dual)


@dataclass(frozen=True, kw_only=True)
class GatesConfig:
    """Per-token and per-answer weights on the policy-gradient loss."""

    conflict_tokens: bool = False
    """GTPO (arXiv:2508.03772): tokens that correct and wrong answers of a group share at their start or end weigh 2
    (4 if at both) in the answers of positive advantage and 0 in those of negative advantage."""
    entropy_penalty: float = 0.0
    """GTPO's gamma: the mean entropy of an answer, times this, is subtracted from its advantage."""
    entropy_limit: float = 0.0
    """GTPO's delta: answers whose mean entropy is above this many nats are left out; 0: off."""
    long_failures: float = 1.0
    """Base b of APO's STCR (arXiv:2506.21655): the advantage of a wrong answer that is n tokens longer than the mean of
    its group's correct answers is multiplied by 2 - b^-n; 1: off."""

    def __post_init__(self) -> None:
        require_not_negative(self, "entropy_penalty", "entropy_limit")
        require(self.long_failures >= 1, "long_failures", "must be at least 1", self.long_failures)


@dataclass(frozen=True, kw_only=True)
class MismatchConfig:
    """Importance weights for an engine whose probabilities differ from the learner's: k = pi_old / pi_sampler,
    detached.

    They weigh the policy gradient only, never a divergence term. Rejected tokens stay in the denominators.
    """

    kind: Literal[
        "none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "geometric", "k2", "k3"
    ] = "none"
    """token_truncate: min(k, high) (TIS); token_mask: k inside [low, high], else 0 (MIS, IcePop); sequence_truncate,
    sequence_mask: the same for the product over the answer; geometric: 1 on answers whose mean log k is inside
    log [low, high], else 0; k2, k3: 1 on answers whose mean of log^2 k / 2, or of k - 1 - log k, is at most high."""
    low: float = 0.0
    """Lower bound on k."""
    high: float = 2.0
    """Upper bound on k, or on the mean of k2 or k3."""
    veto: float = 0.0
    """Leave out answers with any k below this; 0: off."""
    off_policy: float = 0.0
    """Leave out answers of negative advantage whose mean log(sampler / policy) is above this (DeepSeek-V3.2); 0:
    off."""

    def __post_init__(self) -> None:
        require_not_negative(self, "low", "veto", "off_policy")
        require(self.high > self.low, "high", f"must be above low ({self.low})", self.high)

    @property
    def active(self) -> bool:
        """Whether any correction is made."""
        return self.kind != "none" or self.veto > 0 or self.off_policy > 0
