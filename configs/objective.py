"""The objective: a method is one choice for each of its slots."""

from dataclasses import dataclass, field, replace
from typing import Literal

from configs.checks import require, require_not_negative
from configs.critic import CriticConfig
from configs.experience import ExperienceConfig
from configs.flow import FlowConfig
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
from configs.term_rules import check_pair_term, check_terms
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
    "flow",
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
    solution (DARLING); target: f-DPG's pseudo-reward; pairs: minus the slope of a preference loss (DPO); flow: minus
    the slope of flow balance (FlowRL); critic: normalised reward minus a learned value, whitened over the batch's
    answers; none: 0, rewards are not trained on."""
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
    flow: FlowConfig = field(default_factory=FlowConfig)
    """Flow balance of advantage=flow."""
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
        rule = "must be other than 'none' without a term, an entropy bonus or replay: nothing would be trained on"
        learns = bool(self.terms) or self.entropy_bonus > 0 or self.replays
        require(self.advantage != "none" or learns, "advantage", rule, self.advantage)
        self._check_whole_answers()
        if self.pair_term:
            check_pair_term(self.pair_term, self.terms)
        self._check_ratio()
        self._check_rewards()
        check_terms(self.terms, self.anchors)

    def _check_whole_answers(self) -> None:
        """Check the advantages whose loss is one of whole answers."""
        rule = "must be 'sequence_mean_token_sum' for advantage=pairs, whose loss is one of whole answers"
        summed = self.advantage != "pairs" or self.reduction == "sequence_mean_token_sum"
        require(summed, "reduction", rule, self.reduction)
        rule = "must be 'none' for pairs.winners=solution: an answer of the task has no log-probs of the sampler"
        require(not self.imitates or self.ratio == "none", "ratio", rule, self.ratio)
        flows = self.advantage == "flow"
        rule = "must be 'sequence_mean_token_mean' for advantage=flow, whose residual has an answer's mean log-probs"
        require(not flows or self.reduction == "sequence_mean_token_mean", "reduction", rule, self.reduction)
        rule = "must be 'none' for advantage=flow, whose weight is the ratio of the whole answer (flow.clip)"
        require(not flows or self.ratio == "none", "ratio", rule, self.ratio)

    def _check_ratio(self) -> None:
        """Check what needs a certain ratio, clip or denominator."""
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

    def _check_rewards(self) -> None:
        """Check several rewards, the penalty on long answers and experience against the advantage."""
        advantage = self.advantage
        single = "" if advantage != "pairs" or self.pairs.compares else " with pairs.loss=kto"
        counts_right = advantage in COUNT_RIGHT or bool(single)
        rule = (
            f"must be 0 for advantage={advantage}{single}: below reward 1 it would count a long right answer as wrong"
        )
        counts = counts_right and self.overlong.limit > 0
        require(not counts, "overlong.limit", rule, self.overlong.limit)
        rule = f"must be 0, except for the advantages {', '.join(MEAN_ZERO)}: others read log-probs of new answers"
        baseline = advantage in MEAN_ZERO or not self.has_experience
        require(baseline, "experience.fraction", rule, self.experience.fraction)
        check_rewards(self.rewards)
        only_gates = all(r.weight == (name == ANSWER_REWARD) for name, r in with_answer(self.rewards).items())
        rule = f"must be gates of weight 0 for advantage={advantage}{single}, which counts answers of reward 1 as right"
        counts = counts_right and not only_gates
        require(not counts, "rewards", rule, {name: reward.weight for name, reward in self.rewards.items()})
        by_reward = self.combine == "weighted_sum" or advantage in BY_REWARD
        rule = f"must be 'weighted_sum', except for the advantages {', '.join(BY_REWARD)}"
        require(by_reward, "combine", rule, self.combine)
        rule = f"must not be 'whitened_advantages', except for the advantages {', '.join(MEAN_ZERO)}"
        whitens = self.combine == "whitened_advantages"
        require(not whitens or advantage in MEAN_ZERO, "combine", rule, self.combine)

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
    def imitates(self) -> bool:
        """Whether right answers of the task to the explored prompts are the winners of pairs."""
        return self.advantage == "pairs" and self.pairs.winners == "solution"

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
    def reads_meanings(self) -> bool:
        """Whether answers of a group that mean the same must be known."""
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
        return not (explores or by_entropy or self.value_heads)

    @property
    def value_heads(self) -> CriticConfig | None:
        """The value heads on the policy: those of a critic, or one for the log Z of a prompt; None: it has none."""
        if self.advantage == "flow":
            return replace(self.critic, reads="prompt", heads=1)
        return self.critic if self.advantage == "critic" else None

    @property
    def head_anchors(self) -> list[str]:
        """Names of the references whose next-token distributions are needed. The learner ranks hold them."""
        terms = self.terms.values()
        wanted = (term.anchor for term in terms if term.reads_distributions or term.weights.needs_distance)
        return list(dict.fromkeys(wanted))

    @property
    def masks_pairs(self) -> bool:
        """Whether the tokens of pairs have weights."""
        return self.advantage == "pairs" and self.pairs.mask != "none"

    @property
    def hidden_anchors(self) -> list[str]:
        """Names of the references whose hidden states the batch must hold: that of the learned mask of pairs."""
        return [self.pairs.anchor] if self.masks_pairs and self.pairs.mask == "learned" else []

    @property
    def anchors(self) -> list[str]:
        """Names of the references that must score the explored answers."""
        wanted = ["reference"] if self.advantage in ("target", "flow") else []
        wanted += self.pairs.anchors if self.advantage == "pairs" else []
        return list(dict.fromkeys([*wanted, *(term.scored_by for term in self.terms.values() if term.scored_by)]))
