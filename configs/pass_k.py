"""Parameters of the advantages that aim at Pass@k, or that weigh right and wrong answers differently."""

from dataclasses import dataclass
from typing import Literal

from configs.checks import require, require_not_negative, require_positive


@dataclass(frozen=True, kw_only=True)
class PassKConfig:
    """Parameters of the advantages pass_k_zscore, pass_k_gain, weighted_sign, unlikely_zscore and
    uniform_zscore."""

    k: int = 4
    """pass_k_zscore, pass_k_gain: the k of Pass@k, or its first value. In a group with fewer graded answers it is their
    number."""
    schedule: Literal["constant", "linear", "step"] = "constant"
    """constant: `k` in every step. linear: from `k` to `final_k` over `over` steps, rounded. step: `k` until step
    `over`, then `final_k`."""
    final_k: int = 1
    """linear, step: the last k; 1 is Pass@1."""
    over: int = 0
    """linear, step: steps from first to last k; linear: 0 is all steps of the run."""
    right_weight: float = 0.1
    """weighted_sign: lambda, the advantage of a right answer; that of a wrong one is -1. 0: right answers are left
    out."""
    rank_penalty: float = 0.25
    """unlikely_zscore: beta. A right answer keeps the fraction 1 - beta m / G of its reward, where m of the G answers
    of its group are less likely."""
    uniformity: float = 0.2
    """uniform_zscore: tau. The fraction of the advantages of the right answers of a group that is shared out by 1 / q
    instead of equally, where q is an answer's mean probability per token."""

    def __post_init__(self) -> None:
        require_positive(self, "k", "final_k")
        require_not_negative(self, "over", "right_weight")
        rule = "must be positive for schedule step, which changes k once"
        require(self.schedule != "step" or self.over > 0, "over", rule, self.over)
        require(0 <= self.rank_penalty < 1, "rank_penalty", "must be at least 0 and below 1", self.rank_penalty)
        require(0 <= self.uniformity <= 1, "uniformity", "must be between 0 and 1", self.uniformity)

    @property
    def largest_k(self) -> int:
        """The largest k of the run."""
        return self.k if self.schedule == "constant" else max(self.k, self.final_k)

    def at(self, step: int, steps: int) -> int:
        """Return the k of the step after `step` steps of `steps`."""
        if self.schedule == "constant":
            return self.k
        done = min(step / (self.over or steps), 1.0)
        if self.schedule == "step":
            return self.final_k if done == 1 else self.k
        return round(self.k + (self.final_k - self.k) * done)
