"""The objective: a method is one choice for each of its slots."""

from dataclasses import dataclass, field
from typing import Literal

from configs.checks import require, require_not_negative
from configs.critic import CriticConfig
from configs.experience import ExperienceConfig
from configs.overlong import OverlongConfig
from configs.pairs import PairsConfig
from configs.pass_k import PassKConfig
from configs.policy_gradient import ClipConfig, CovarianceConfig, GatesConfig, MismatchConfig
from configs.recap import RecapConfig
from configs.rewards import (
    ANSWER_REWARD,
    BY_REWARD,
    MEAN_ZERO,
    Combination,
    RewardConfig,
    check_rewards,
    with_answer,
)
from configs.target import TargetConfig
from configs.terms import Reduction, TermConfig

Advantage = Literal[
    "group_zscore",
    "mean_only",
    "leave_one_out",
    "global_whiten",
    "group_mean_global_whiten",
    "best_of_n",
    "mean_normalised",
    "pass_k_zscore",
    "pass_k_gain",
    "weighted_sign",
    "unlikely_zscore",
    "uniform_zscore",
    "majority_zscore",
    "distinct_mean_only",
    "target",
    "pairs",
    "critic",
    "none",
]
WHITENED = ("global_whiten", "group_mean_global_whiten")
"""Advantages that are whitened over the tokens of the batch after terms have been subtracted."""
AIM_AT_PASS_K = ("pass_k_zscore", "pass_k_gain")
"""Advantages with a k."""
RATIO_OF_CLIP = {
    "sapo": ("token", "a function of a token's own ratio"),
    "dppo": ("token", "decided by a token's own probability"),
    "gmpo": ("sequence", "made on the log-ratios whose mean over the answer is the ratio"),
}
"""The ratio that a kind of clip needs, and what the clip is."""
COUNT_RIGHT = ("pass_k_zscore", "weighted_sign", "unlikely_zscore", "uniform_zscore", "majority_zscore")
"""Advantages that treat an answer of reward 1 or more as right."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The slots of the objective; a method is one choice for each."""

    advantage: Advantage = "group_zscore"
    """Advantage of an answer. group_zscore: (r - mean) / std of its group (GRPO); mean_only: r - mean (Dr. GRPO);
    leave_one_out: r minus the mean of the others (RLOO); global_whiten: r, whitened over the batch's tokens
    (REINFORCE++); group_mean_global_whiten: r - mean, whitened likewise; best_of_n: the best answer of each group
    alone; mean_normalised: (r - mean) / mean (MaxRL); pass_k_zscore: (mean of the sets of k answers that contain it -
    mean of all sets) / std of all sets, where a set is 1 if one of its answers is right (Pass@k training); pass_k_gain:
    k times the mean of what it adds to the best reward of k - 1 others (PKPO); weighted_sign: lambda if it is right, -1
    if not (NSR); unlikely_zscore: group_zscore, after likely right answers have lost a part of their reward;
    uniform_zscore: group_zscore, of which unlikely right answers get more and likely ones less; majority_zscore:
    group_zscore over 2 sqrt(p (1 - p)) in groups whose fraction p of right answers is above 1/2; distinct_mean_only:
    mean_only, after each reward was multiplied by the fraction of the other answers of its group that are another
    solution (DARLING); target: f-DPG's pseudo-reward; pairs: minus the slope of a preference loss (DPO); critic:
    normalised reward minus a learned value, whitened over the batch's answers; none: 0, rewards are not trained
    on."""
    rewards: dict[str, RewardConfig] = field(default_factory=dict)
    """Further rewards of an answer, by names of your own; `answer` is that of the problem's own verifier.
    `objective.rewards.NAME=null` removes a preset's reward."""
    combine: Combination = "weighted_sum"
    """How several rewards become one advantage. weighted_sum: `advantage` of the sum of weight x reward;
    weighted_advantages: the sum of weight x `advantage` of each reward, so that a reward whose values differ little
    counts as much as one whose values differ a lot; whitened_advantages: that sum over its standard deviation over all
    answers of the step (GDPO, arXiv:2601.05242)."""
    pass_k: PassKConfig = field(default_factory=PassKConfig)
    """Parameters of the advantages that aim at Pass@k."""
    overlong: OverlongConfig = field(default_factory=OverlongConfig)
    """Penalty on long answers."""
    target: TargetConfig = field(default_factory=TargetConfig)
    """Target distribution of advantage=target."""
    pairs: PairsConfig = field(default_factory=PairsConfig)
    """Preference loss of advantage=pairs."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    """Critic of advantage=critic."""
    ratio: Literal["token", "sequence", "none"] = "token"
    """Importance ratio. token: one per token; sequence: its geometric mean over the answer (GSPO); none: plain policy
    gradient."""
    clip: ClipConfig = field(default_factory=ClipConfig)
    """Clipping of the ratio."""
    old_policy: Literal["sampler", "learner"] = "sampler"
    """Denominator of the ratio. sampler: log-probs of the engine at rollout, which covers staleness and engine
    mismatch; learner: log-probs of the learner before its first update of the step."""
    mismatch: MismatchConfig = field(default_factory=MismatchConfig)
    """Correction of the difference between engine and learner."""
    gates: GatesConfig = field(default_factory=GatesConfig)
    """Weights on tokens and answers of the policy gradient."""
    covariance: CovarianceConfig = field(default_factory=CovarianceConfig)
    """Tokens whose update lowers the entropy most."""
    terms: dict[str, TermConfig] = field(default_factory=dict)
    """Divergence terms by names of your own; a preset with one term calls it `divergence`. `objective.terms.NAME=null`
    removes a preset's term."""
    entropy_bonus: float = 0.0
    """Weight of the mean entropy of the next-token distributions; its gradient is exact over the vocabulary."""
    replay_weight: float = 0.0
    """Weight of the mean negative log-likelihood per token of replayed right answers (`replay`); 0: off."""
    experience: ExperienceConfig = field(default_factory=ExperienceConfig)
    """Right answers of earlier steps."""
    recap: RecapConfig = field(default_factory=RecapConfig)
    """Dynamic weights of domains and replay loss."""
    reduction: Reduction = "token_mean"
    """Loss aggregation. token_mean: over all tokens (DAPO); sequence_mean_token_mean: over answers, of their token
    means (GRPO); sequence_mean_token_sum: over answers, of their token sums (RLOO); constant: token sum over answers
    times `constant_length` (Dr. GRPO). verl: loss_agg_mode."""
    constant_length: int = 0
    """reduction=constant: the fixed length L_max, in tokens."""

    def __post_init__(self) -> None:
        if self.reduction == "constant":
            rule = "must be positive when reduction is 'constant'"
            require(self.constant_length > 0, "constant_length", rule, self.constant_length)
        require_not_negative(self, "entropy_bonus", "replay_weight")
        require("replay" not in self.terms, "terms", "must not name a term 'replay'", list(self.terms))
        rule = "must be other than 'none' without a term, an entropy bonus or replay: nothing would be trained on"
        learns = bool(self.terms) or self.entropy_bonus > 0 or self.replays
        require(self.advantage != "none" or learns, "advantage", rule, self.advantage)
        rule = f"must be 0 for advantage={self.advantage}: below reward 1 it would count a long right answer as wrong"
        counts = self.advantage in COUNT_RIGHT and self.overlong.limit > 0
        require(not counts, "overlong.limit", rule, self.overlong.limit)
        rule = "must be 'sequence_mean_token_sum' for advantage=pairs, whose loss is one of whole answers"
        summed = self.advantage != "pairs" or self.reduction == "sequence_mean_token_sum"
        require(summed, "reduction", rule, self.reduction)
        if self.pair_term:
            term, rule = self.terms.get(self.pair_term), "must name a term on explored answers in the vocabulary wiring"
            require(term is not None and term.exact and not term.rehearses, "pairs.term", rule, self.pair_term)
            rule = "must be 'same' for the term of the pairs, whose loss is one of whole answers"
            reduction = self.terms[self.pair_term].reduction
            require(reduction == "same", f"terms.{self.pair_term}.reduction", rule, reduction)
        joint = any(term.wiring == "joint" for term in self.terms.values())
        rule = "must be 'token' for a term in the joint wiring, whose slope is weighted by the ratio of its token"
        require(not joint or self.ratio == "token", "ratio", rule, self.ratio)
        rule = "must not be 'sapo' for a term in the joint wiring, whose slope is weighted by the ratio of its token"
        require(not joint or self.clip.kind != "sapo", "clip.kind", rule, self.clip.kind)
        ratio, what = RATIO_OF_CLIP.get(self.clip.kind, (self.ratio, ""))
        rule = f"must be '{ratio}' for clip.kind={self.clip.kind}: the clip is {what}"
        require(self.ratio in (ratio, "none"), "ratio", rule, self.ratio)
        rule = (
            "must be 'learner' for a mismatch correction: with the sampler's log-probs as denominator the ratio "
            "corrects the mismatch already, and a weight would count it twice"
        )
        weighs = self.mismatch.kind != "none"
        require(not weighs or self.old_policy == "learner", "old_policy", rule, self.old_policy)
        rule = f"must be 0, except for the advantages {', '.join(MEAN_ZERO)}: others read log-probs of new answers"
        baseline = self.advantage in MEAN_ZERO or not self.has_experience
        require(baseline, "experience.fraction", rule, self.experience.fraction)
        check_rewards(self.rewards)
        only_gates = all(r.weight == (name == ANSWER_REWARD) for name, r in with_answer(self.rewards).items())
        rule = f"must be gates of weight 0 for advantage={self.advantage}, which counts answers of reward 1 as right"
        counts = self.advantage in COUNT_RIGHT and not only_gates
        require(not counts, "rewards", rule, {name: reward.weight for name, reward in self.rewards.items()})
        by_reward = self.combine == "weighted_sum" or self.advantage in BY_REWARD
        rule = f"must be 'weighted_sum', except for the advantages {', '.join(BY_REWARD)}"
        require(by_reward, "combine", rule, self.combine)
        rule = f"must not be 'whitened_advantages', except for the advantages {', '.join(MEAN_ZERO)}"
        whitens = self.combine == "whitened_advantages"
        require(not whitens or self.advantage in MEAN_ZERO, "combine", rule, self.combine)
        for name, term in self.terms.items():
            self._check_coefficient(f"terms.{name}.coefficient.", term)
        self._check_negative_coefficients()

    def _check_coefficient(self, path: str, term: TermConfig) -> None:
        kind, of = term.coefficient.kind, term.coefficient.of
        rule = (
            "follows the KL to the reference on explored answers, so some term needs route=explore and anchor=reference"
        )
        measured = kind not in ("adaptive", "safe") or "reference" in self.anchors
        require(measured, f"{path}kind", rule, kind)
        rule = "must not be 'adaptive_fraction' on rehearsed answers: it follows explored answers"
        require(kind != "adaptive_fraction" or not term.rehearses, f"{path}kind", rule, kind)
        others = [name for name, other in self.terms.items() if other.coefficient.kind != "complement"]
        rule = f"must be another term ({', '.join(others) or 'none'}) for kind=complement, and empty otherwise"
        require(of in others if kind == "complement" else not of, f"{path}of", rule, of)

    def _check_negative_coefficients(self) -> None:
        """Refuse a negative coefficient where the sum of the terms would have no minimum.

        a KL(policy || p) - b KL(policy || q) with a > b is (a - b) KL(policy || (p^a / q^b)^(1 / (a - b)) / Z) plus a
        constant, as log policy has the coefficient a - b. With a < b it falls without bound as the policy leaves q.
        """
        rule = (
            "must not be negative, except for an unweighted reverse KL on explored answers (estimator other than k3 and"
            " naive) whose constant coefficient has a positive sum with those of its like"
        )
        for name, term in self.terms.items():
            if term.coefficient.value < 0:
                alike = [other for other in self.terms.values() if _form(other) == _form(term)]
                bounded = _sums(term) and sum(other.coefficient.value for other in alike) > 0
                require(bounded, f"terms.{name}.coefficient.value", rule, term.coefficient.value)

    def reduction_of(self, term: TermConfig) -> Reduction:
        """Return the loss aggregation of a term."""
        return self.reduction if term.reduction == "same" else term.reduction

    @property
    def rehearses(self) -> bool:
        """Whether a term is estimated on rehearsed answers."""
        return any(term.rehearses for term in self.terms.values())

    @property
    def replays(self) -> bool:
        """Whether right answers of a task are replayed."""
        return self.replay_weight > 0

    @property
    def has_experience(self) -> bool:
        """Whether right answers of earlier steps join new groups."""
        return self.experience.fraction > 0

    @property
    def weighs_rewards(self) -> bool:
        """Whether each of several rewards of an answer has an advantage and a weight of its own."""
        return bool(self.rewards) and self.combine != "weighted_sum"

    @property
    def pair_term(self) -> str:
        """Name of the term that is part of the loss of the pairs; empty: none."""
        return self.pairs.term if self.advantage == "pairs" else ""

    @property
    def counts_solutions(self) -> bool:
        """Whether the different solutions of a group must be counted."""
        return self.advantage == "distinct_mean_only"

    @property
    def scores_first(self) -> bool:
        """Whether the learner must score a batch before its first update: for a critic, for pairs, or for token
        importance."""
        return self.advantage in ("critic", "pairs") or any(
            term.weights.importance != "none" for term in self.terms.values()
        )

    @property
    def only_advantages(self) -> bool:
        """Whether an explored answer has a gradient only through its advantage, so none where the advantage is 0."""
        explores = any(not term.rehearses for term in self.terms.values())
        by_entropy = self.entropy_bonus or self.gates.entropy_penalty or self.gates.entropy_limit
        return not (explores or by_entropy or self.advantage == "critic")

    @property
    def hidden_anchors(self) -> list[str]:
        """Names of the references whose hidden states are needed."""
        terms = self.terms.values()
        wanted = (term.anchor for term in terms if term.reads_distributions or term.weights.needs_distance)
        return list(dict.fromkeys(wanted))

    @property
    def anchors(self) -> list[str]:
        """Names of the references that must score the explored answers."""
        wanted = ["reference"] if self.advantage == "target" else []
        wanted += self.pairs.anchors if self.advantage == "pairs" else []
        return list(dict.fromkeys([*wanted, *(term.scored_by for term in self.terms.values() if term.scored_by)]))


def _form(term: TermConfig) -> tuple[object, ...]:
    """Return what the losses of two reverse KLs must share to be one loss."""
    return term.wiring, term.level, term.estimator, term.horizon, term.reduction, _sums(term)


def _sums(term: TermConfig) -> bool:
    """Return whether a sum of such terms, each with a constant coefficient, is a reverse KL again."""
    weighted = term.weights.chosen or term.reweights or term.root or term.top or term.hinge
    gradient = term.name == "reverse_kl" and not term.rehearses and term.estimator not in ("k3", "naive")
    return gradient and not weighted and term.coefficient.kind == "constant"
