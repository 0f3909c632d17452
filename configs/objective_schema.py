"""The slots of the objective as settings: a method is one row of choices over them."""

from dataclasses import dataclass, field
from typing import Literal

from configs.checks import require

DivergenceName = Literal["none", "reverse_kl", "forward_kl", "jensen_shannon", "alpha"]
"""Each name but `none` is a function of `objectives/divergences.py`."""
Estimator = Literal["k1", "k2", "k3", "straight_through", "ratio_weighted"]
Advantage = Literal["group_zscore", "mean_only", "leave_one_out"]
Reduction = Literal["token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum", "constant"]


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    low: float = 0.2
    """The ratio is clipped to [1 - low, 1 + high]."""
    high: float = 0.2
    dual: float | None = None
    """Dual clip: with a negative advantage the surrogate is at least dual * advantage; above 1."""

    def __post_init__(self) -> None:
        require(0 < self.low <= 1, "objective.clip.low", "must be in (0, 1]", self.low)
        require(self.high > 0, "objective.clip.high", "must be positive", self.high)
        require(self.dual is None or self.dual > 1, "objective.clip.dual", "must be above 1 or null", self.dual)


@dataclass(frozen=True, kw_only=True)
class CoefficientConfig:
    kind: Literal["constant", "adaptive"] = "constant"
    """adaptive: Ziegler et al. (arXiv:1909.08593), proportional control of the KL per trajectory."""
    value: float = 0.0
    """The coefficient, or its start."""
    target: float = 6.0
    """adaptive: nats per trajectory."""
    horizon: int = 10_000
    """adaptive: trajectories."""

    def __post_init__(self) -> None:
        require(self.value >= 0, "objective.divergence.coefficient.value", "must not be negative", self.value)
        require(self.target > 0, "objective.divergence.coefficient.target", "must be positive", self.target)
        require(self.horizon > 0, "objective.divergence.coefficient.horizon", "must be positive", self.horizon)


@dataclass(frozen=True, kw_only=True)
class DivergenceConfig:
    name: DivergenceName = "none"
    alpha: float = 0.2
    """alpha divergence: towards 1 it is the forward KL, towards 0 the reverse KL."""
    samples: Literal["on_policy", "rehearsal"] = "on_policy"
    """Whose answers estimate it: the policy's own, or stored answers of the reference."""
    wiring: Literal["loss", "reward"] = "loss"
    estimator: Estimator = "k3"
    """`breadth show-config` says in words what gradient the choice really has."""
    coefficient: CoefficientConfig = field(default_factory=CoefficientConfig)

    def __post_init__(self) -> None:
        if self.name == "none":
            require(
                self.coefficient.value == 0,
                "objective.divergence.coefficient.value",
                "must be 0 without a divergence",
                self.coefficient.value,
            )
            return
        where = "objective.divergence.estimator"
        require(0 < self.alpha < 1, "objective.divergence.alpha", "must be in (0, 1)", self.alpha)
        if self.samples == "rehearsal":
            require(
                self.wiring == "loss",
                "objective.divergence.wiring",
                "stored answers have no reward to add to; must be 'loss'",
                self.wiring,
            )
            require(
                self.estimator in ("k1", "k3"),
                where,
                "on stored reference answers must be k1 (f as it is) or k3 (f less its tangent)",
                self.estimator,
            )
        elif self.wiring == "reward":
            require(
                self.estimator == "k1",
                where,
                "the reward wiring adds the detached slope of f, which is the k1 estimator; must be k1",
                self.estimator,
            )
        else:
            require(
                self.estimator != "k1",
                where,
                "a differentiated k1 has no gradient in expectation, so nothing would be regularised; "
                "must be straight_through, k2, k3 or ratio_weighted",
                self.estimator,
            )
            require(
                self.estimator not in ("k2", "k3") or self.name == "reverse_kl",
                where,
                f"differentiating {self.estimator} of {self.name} on the policy's own answers is not the gradient "
                "of any divergence; must be straight_through or ratio_weighted",
                self.estimator,
            )

    @property
    def rehearses(self) -> bool:
        return self.name != "none" and self.samples == "rehearsal"

    @property
    def needs_reference(self) -> bool:
        """Whether the reference has to score the policy's own answers."""
        return self.name != "none" and self.samples == "on_policy"


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The slots of the objective; a method is one row of choices."""

    advantage: Advantage = "group_zscore"
    ratio: Literal["token", "none"] = "token"
    """token: clipped importance ratio of PPO; none: plain policy gradient."""
    clip: ClipConfig = field(default_factory=ClipConfig)
    old_policy: Literal["sampler", "learner"] = "sampler"
    """Denominator of the ratio: the engine's log-probs at rollout (covers staleness and engine mismatch), or the
    learner's own before its first update of the step."""
    divergence: DivergenceConfig = field(default_factory=DivergenceConfig)
    reduction: Reduction = "token_mean"
    constant_length: int = 0
    """reduction=constant: the fixed L_max of Dr.GRPO, in tokens."""

    def __post_init__(self) -> None:
        if self.reduction == "constant":
            require(
                self.constant_length > 0,
                "objective.constant_length",
                "must be positive when reduction is 'constant'",
                self.constant_length,
            )
