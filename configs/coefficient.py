"""The coefficient of a divergence term: a constant, a schedule or a controller."""

from dataclasses import dataclass
from typing import Literal

from configs.checks import require, require_not_negative, require_positive

LARGEST_KL_ERROR = 0.2
"""Bound on the relative KL error that one step of the adaptive coefficient corrects (Ziegler et al.)."""


@dataclass(frozen=True, kw_only=True)
class CoefficientConfig:
    """The weight of a divergence term: one number for each step."""

    kind: Literal[
        "constant", "linear", "cosine", "step", "adaptive", "safe", "adaptive_fraction", "confidence", "complement"
    ] = "constant"
    """constant: `value`. linear, cosine: from `value` to `final` over `over` steps. step: `value` until step `over`,
    then `final`. adaptive: proportional control of the KL per trajectory (Ziegler et al., arXiv:1909.08593). safe:
    the smoothed KL above a threshold that follows entropy, reward velocity and phase (SAFE, arXiv:2602.04651);
    `value` scales it. adaptive_fraction: raised by 0.1, up to 1, whenever the term's mean over `over` steps has
    risen by 0.1 nats (DistiLLM, arXiv:2402.03898). confidence: the mean probability that the anchor gave to the
    term's tokens in the step before (CAKLD of BitDistiller, arXiv:2402.10631); `value` in the first step.
    complement: 1 minus the coefficient of the term `of`."""
    value: float = 0.0
    """The coefficient, or its first value. A constant one may be negative, which drives the policy away from the
    anchor, if all terms together stay bounded: reverse KLs whose coefficients have a positive sum (ExOPD)."""
    final: float = 0.0
    """linear, cosine, step: the last value."""
    over: int = 0
    """linear, cosine, step: steps from first to last value; 0: all steps of the run. adaptive_fraction: steps
    between two comparisons of the term's mean."""
    of: str = ""
    """complement: name of the other term."""
    target: float = 6.0
    """adaptive: target of the KL to the reference, in nats per trajectory."""
    horizon: int = 10_000
    """adaptive: number of trajectories over which an error is corrected."""
    smoothing: float = 0.9
    """safe: weight of the earlier steps in the smoothed KL; 0: the KL of the last step alone."""

    def __post_init__(self) -> None:
        require_not_negative(self, "final", "over")
        rule = "must not be negative, except for kind=constant"
        require(self.value >= 0 or self.kind == "constant", "value", rule, self.value)
        require_positive(self, "target", "horizon")
        require(0 <= self.smoothing < 1, "smoothing", "must be at least 0 and below 1", self.smoothing)
        fraction = self.kind == "adaptive_fraction"
        require(not fraction or self.over > 0, "over", "must be positive for kind adaptive_fraction", self.over)
        within = self.kind not in ("adaptive_fraction", "confidence")
        require(within or self.value <= 1, "value", f"must be at most 1 for kind {self.kind}", self.value)

    @property
    def always_zero(self) -> bool:
        """Whether it is 0 in every step."""
        return self.value == 0 and (
            self.kind in ("constant", "adaptive", "safe") or (self.scheduled and self.final == 0)
        )

    @property
    def scheduled(self) -> bool:
        """Whether the coefficient is a function of the step alone."""
        return self.kind in ("linear", "cosine", "step")
