"""Per-token weights of a divergence term."""

from dataclasses import dataclass, fields
from typing import Literal

from configs.checks import require, require_not_negative

Certainty = Literal["negentropy", "negentropy_max", "max_prob"]
"""Of a distribution p over V tokens: 1 - H / log V, 1 + log max p / log V, or max p."""


BY_REWARD = ("failed_answers", "failed_groups", "mastered_groups")
"""The masks of `only` whose kept tokens are scaled up."""


@dataclass(frozen=True, kw_only=True)
class TermWeightsConfig:
    """Weights on the tokens of a divergence term; the chosen ones multiply. They never touch the policy gradient.

    `only` and `importance` are masks. The kept tokens are scaled up, so that the term is a mean over the kept tokens;
    with only=best_answers it is a mean over prompts.
    """

    difficulty: bool = False
    """Difficulty-adaptive weight (DADS of APO, arXiv:2506.21655): 1 - exp(-e (1 - d)) on answers of positive advantage,
    where d is the fraction of wrong answers in the group; 1 where d is 0 or 1."""
    only: Literal["all", "failed_answers", "failed_groups", "mastered_groups", "best_answers"] = "all"
    """Mask by reward. failed_answers: answers of reward 0; failed_groups: groups without a correct answer (KDRL,
    arXiv:2506.02208); mastered_groups: groups of correct answers only (MCPO, arXiv:2604.16972); best_answers: the
    answers that have the greatest reward of their group, if it is positive, and share the weight of the group (SuperHF,
    arXiv:2310.16763)."""
    length_debias: bool = False
    """Length debiasing (SamPO, arXiv:2406.10957): every answer counts as many tokens as the shortest of its group."""
    importance: Literal["none", "soft_or", "entropy", "confidently_wrong"] = "none"
    """Token selection of TIP (arXiv:2604.14084): the tokens of an answer with the highest score, under the policy
    before its first update. With entropy h and exact distance d = KL(policy || anchor), both scaled to [0, 1] over
    the batch: soft_or: h + d - h d; entropy: h; confidently_wrong: (1 - h) d."""
    keep: float = 0.5
    """importance: fraction of each answer's tokens that is kept; their number is rounded down."""
    step_limit: float = 0.0
    """Step weights of SOD (arXiv:2605.07725): the weight of step k is d_1 / d_k, at most this (the paper's 1 + delta),
    where d_k is the mean |log pi_old - log anchor| of the answer's step k. 0: off."""
    step_length: int = 0
    """step_limit: tokens of one step where an answer is a single turn; 0: steps are turns, whatever their length."""
    entropy_power: float = 0.0
    """(H / log V)^power of the policy's own entropy H; 0: off. A cheap replacement of SparsePO's learned masks
    (arXiv:2410.05102)."""
    certainty_power: float = 0.0
    """Prioritised KL (arXiv:2502.06533): certainty^certainty_power of the anchor's next-token distribution; 0: off."""
    certainty: Certainty = "negentropy"
    """certainty_power: measure of certainty. negentropy: 1 - H / log V; negentropy_max: 1 + log max p / log V;
    max_prob: max p."""
    certainty_temperature: float = 0.0
    """certainty_power: temperature of the distribution that is measured; 0: the sampling temperature."""

    def __post_init__(self) -> None:
        require_not_negative(self, "entropy_power", "certainty_power", "certainty_temperature")
        require(0 < self.keep <= 1, "keep", "must be in (0, 1]", self.keep)
        limited = self.step_limit == 0 or self.step_limit >= 1
        require(limited, "step_limit", "must be at least 1, the weight of the first step, or 0", self.step_limit)
        known = self.step_length == 0 or (self.step_length > 0 and self.step_limit > 0)
        require(known, "step_length", "must not be negative, and 0 without a step_limit", self.step_length)

    @property
    def masks(self) -> bool:
        """Whether the kept tokens are scaled up to the weight of all."""
        return self.only in BY_REWARD or self.importance != "none"

    @property
    def needs_distance(self) -> bool:
        """Whether the exact KL(policy || anchor) of every token must be known before the first update."""
        return self.importance in ("soft_or", "confidently_wrong")

    @property
    def chosen(self) -> bool:
        """Whether any weight differs from 1."""
        return bool(self.changed)

    @property
    def changed(self) -> dict[str, object]:
        """The settings that differ from their defaults, with their values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value != getattr(TermWeightsConfig, name)}
