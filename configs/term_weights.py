"""Weights on the tokens of a divergence term as settings."""

from dataclasses import dataclass
from typing import Literal

from configs.checks import require

Certainty = Literal["negentropy", "negentropy_max", "max_prob"]
"""Of a distribution: 1 - H / log V, 1 + log max p / log V, or max p."""


@dataclass(frozen=True, kw_only=True)
class TermWeightsConfig:
    """Weights on the tokens of a divergence term; those chosen multiply. None of them touches the policy gradient.

    `only` and `importance` are masks: what they keep counts for more, so that the term is a mean over the tokens kept.
    """

    difficulty: bool = False
    """APO's DADS (arXiv:2506.21655): 1 - exp(-e (1 - d)) on answers of positive advantage, d the share of wrong ones
    in the group; 1 where d is 0 or 1."""
    only: Literal["all", "failed_answers", "failed_groups"] = "all"
    """KDRL's reward-guided masks (arXiv:2506.02208): answers of reward 0, or groups without a correct answer."""
    length_debias: bool = False
    """SamPO (arXiv:2406.10957): every answer counts as many tokens as the shortest of its group."""
    importance: Literal["none", "soft_or", "entropy", "confidently_wrong"] = "none"
    """TIP (arXiv:2604.14084): only the tokens of an answer that score highest, by the policy before its first update,
    with h its entropy and d the exact KL(policy || anchor), both scaled to [0, 1] over the batch; soft_or: h + d - h d;
    entropy: h; confidently_wrong: (1 - h) d."""
    keep: float = 0.5
    """importance: the share of an answer's tokens that is kept, rounded down."""
    step_limit: float = 0.0
    """SOD (arXiv:2605.07725): a step weighs as much as the policy was off the anchor in the answer's first step over
    how much in this one, in mean |log pi_old - log anchor|, and at most this (the paper's 1 + delta); 0: off."""
    step_length: int = 0
    """step_limit: the tokens of a step where an answer is a single turn; 0: steps are turns, whatever their length."""
    entropy_power: float = 0.0
    """The policy's own entropy over log V, to this power; 0: off. A cheap mask in the place of SparsePO's learned ones
    (arXiv:2410.05102)."""
    certainty_power: float = 0.0
    """Prioritised KL (arXiv:2502.06533): the anchor's certainty at the token, to this power; 0: off."""
    certainty: Certainty = "negentropy"
    certainty_temperature: float = 0.0
    """Of the distribution whose certainty it is; 0: that of sampling."""

    def __post_init__(self) -> None:
        for name in ("entropy_power", "certainty_power", "certainty_temperature"):
            where = f"objective.divergence.weights.{name}"
            require(getattr(self, name) >= 0, where, "must not be negative", getattr(self, name))
        require(0 < self.keep <= 1, "objective.divergence.weights.keep", "must be in (0, 1]", self.keep)
        rule = "must be at least 1, which the first step weighs, or 0"
        limited = self.step_limit == 0 or self.step_limit >= 1
        require(limited, "objective.divergence.weights.step_limit", rule, self.step_limit)
        rule = "must not be negative, and 0 without a step_limit"
        known = self.step_length == 0 or (self.step_length > 0 and self.step_limit > 0)
        require(known, "objective.divergence.weights.step_length", rule, self.step_length)

    @property
    def masks(self) -> bool:
        """Whether some tokens of the term are left out."""
        return self.only != "all" or self.importance != "none"

    @property
    def needs_distance(self) -> bool:
        """Whether the exact KL(policy || anchor) of every token has to be known before the first update."""
        return self.importance in ("soft_or", "confidently_wrong")

    @property
    def chosen(self) -> bool:
        """Whether any differs from 1."""
        return self != TermWeightsConfig()
