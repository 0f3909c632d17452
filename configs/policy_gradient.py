"""The policy gradient: clipping of the importance ratio, weights on tokens and answers, correction of the engine."""

from dataclasses import dataclass
from typing import Literal

from configs.checks import require, require_not_negative, require_positive


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Clipping of the importance ratio."""

    kind: Literal["ratio", "kl3", "cispo", "dppo", "sapo", "gmpo", "none"] = "ratio"
    """ratio: PPO's clipped surrogate; kl3: its bounds are the two roots of rho - 1 - log rho = delta (ATR-GRPO); cispo:
    the clipped ratio is detached and weighs log pi, so that no token loses its gradient; dppo: likewise, but a token
    whose probability has moved by more than delta in the direction of its advantage loses its gradient; sapo: a sigmoid
    of the ratio, with slope 1 at ratio 1, in place of a clip; gmpo: the log-ratios of tokens are clipped before their
    mean over the answer, with ratio=sequence; none: not clipped."""
    low: float = 0.2
    """The ratio is clipped to [1 - low, 1 + high]; 1: no lower bound. gmpo: the log-ratio to [-low, high]."""
    high: float = 0.2
    """Upper clip range; above `low` it is DAPO's clip-higher. dppo: the ratio is at most 1 + high."""
    dual: float | None = None
    """Dual clip: with a negative advantage A the surrogate is at least dual * A; above 1. null: off."""
    delta: float = 0.03
    """kl3: bound on rho - 1 - log rho. dppo: bound on |pi - pi_old|, the total variation between the policies when each
    distribution is reduced to the sampled token and all others."""
    temperature_positive: float = 1.0
    """sapo: temperature tau of tokens of positive advantage; the larger, the faster the gradient falls off."""
    temperature_negative: float = 1.05
    """sapo: temperature tau of the other tokens."""

    def __post_init__(self) -> None:
        require(0 < self.low <= 1, "low", "must be in (0, 1]", self.low)
        require_positive(self, "high", "delta", "temperature_positive", "temperature_negative")
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
class CovarianceConfig:
    """Tokens chosen by their covariance (log pi - mean)(A - mean), with means over the tokens of the step
    (arXiv:2505.22617); the higher it is, the more an update lowers the entropy."""

    kind: Literal["none", "clip", "kl"] = "none"
    """clip: tokens chosen at random between `low` and `high` have no policy gradient (Clip-Cov); kl: the tokens with
    the highest covariance get the penalty |log ratio| (KL-Cov); none: off."""
    fraction: float = 0.0002
    """Fraction of the tokens of a step that are chosen, but at least one token; 0: none."""
    low: float = 1.0
    """clip: only tokens above this covariance are chosen."""
    high: float = 5.0
    """clip: only tokens below this covariance are chosen."""
    penalty: float = 1.0
    """kl: coefficient of |log ratio| on the chosen tokens."""

    def __post_init__(self) -> None:
        require_positive(self, "penalty")
        require(0 <= self.fraction <= 1, "fraction", "must be in [0, 1]", self.fraction)
        require(self.high > self.low, "high", f"must be above low ({self.low})", self.high)


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
