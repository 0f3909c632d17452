"""The slots of the objective as settings: a method is one row of choices over them."""

from dataclasses import dataclass, field
from typing import Literal

from configs.checks import require
from configs.critic import CriticConfig
from configs.recap import RecapConfig
from configs.terms import DivergenceConfig, Reduction

Advantage = Literal[
    "group_zscore",
    "mean_only",
    "leave_one_out",
    "global_whiten",
    "group_mean_global_whiten",
    "best_of_n",
    "target",
    "critic",
    "none",
]
"""Functions of `objectives/advantage/`. target: f-DPG's pseudo-reward; critic: the normalised reward less a learned
value, whitened over the batch's answers; none: rewards are not learned from, divergence terms are."""
WHITENED = ("global_whiten", "group_mean_global_whiten")


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    kind: Literal["ratio", "kl3", "cispo", "none"] = "ratio"
    """ratio: PPO; kl3: bounds at which rho - 1 - log rho = delta (ATR-GRPO); cispo: the detached, clipped ratio weighs
    log pi, and no token loses its gradient; none: the ratio as it is."""
    low: float = 0.2
    """The ratio is clipped to [1 - low, 1 + high]; 1: no lower bound."""
    high: float = 0.2
    dual: float | None = None
    """Dual clip: with a negative advantage the surrogate is at least dual * advantage; above 1."""
    delta: float = 0.03
    """kl3: the bound on rho - 1 - log rho."""

    def __post_init__(self) -> None:
        require(0 < self.low <= 1, "objective.clip.low", "must be in (0, 1]", self.low)
        require(self.high > 0, "objective.clip.high", "must be positive", self.high)
        require(self.dual is None or self.dual > 1, "objective.clip.dual", "must be above 1 or null", self.dual)
        clips = self.dual is None or self.kind in ("ratio", "kl3")
        require(clips, "objective.clip.dual", f"must be null for objective.clip.kind={self.kind}", self.dual)
        require(self.delta > 0, "objective.clip.delta", "must be positive", self.delta)


@dataclass(frozen=True, kw_only=True)
class GatesConfig:
    """Which tokens and answers the policy gradient hears, and how loudly."""

    conflict_tokens: bool = False
    """GTPO (arXiv:2508.03772): tokens that winners and losers of a group share at their start or end count double in
    winners and not at all in losers."""
    entropy_penalty: float = 0.0
    """GTPO's gamma: an answer's mean entropy, times this, is taken off its advantage."""
    entropy_limit: float = 0.0
    """GTPO's delta: answers whose mean entropy is above this many nats are left out; 0: off."""
    long_failures: float = 1.0
    """APO's STCR base b (arXiv:2506.21655): a wrong answer longer than the mean of its group's correct ones by n tokens
    has its advantage times 2 - b^-n; 1: off."""

    def __post_init__(self) -> None:
        for name in ("entropy_penalty", "entropy_limit"):
            require(getattr(self, name) >= 0, f"objective.gates.{name}", "must not be negative", getattr(self, name))
        require(self.long_failures >= 1, "objective.gates.long_failures", "must be at least 1", self.long_failures)


@dataclass(frozen=True, kw_only=True)
class OverlongConfig:
    """DAPO's soft overlong punishment (arXiv:2503.14476, equation 13), added to the reward of every answer."""

    limit: int = 0
    """Tokens at which it reaches -1 (L_max); 0: off."""
    share: float = 0.2
    """Share of the limit, below it, over which it grows from 0 (L_cache / L_max)."""

    def __post_init__(self) -> None:
        require(self.limit >= 0, "objective.overlong.limit", "must not be negative", self.limit)
        require(0 < self.share <= 1, "objective.overlong.share", "must be in (0, 1]", self.share)


@dataclass(frozen=True, kw_only=True)
class MismatchConfig:
    """Correction for an engine whose probabilities are not the trainer's: k = pi_old / pi_sampler, detached.

    It weighs the policy gradient only, never a divergence. Rejected tokens keep their place in the denominators.
    """

    kind: Literal[
        "none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "geometric", "k2", "k3"
    ] = "none"
    """token_truncate: TIS, min(k, high); token_mask: MIS or IcePop, k inside [low, high], else 0; sequence_*: the same
    for the product over the answer; geometric: answers whose mean log k is inside log [low, high], unweighted; k2, k3:
    answers whose mean log^2 k / 2, or k - 1 - log k, is at most high, unweighted."""
    low: float = 0.0
    high: float = 2.0
    veto: float = 0.0
    """Answers with any k below this are left out; 0: off."""
    off_policy: float = 0.0
    """DeepSeek-V3.2: leave out answers of negative advantage whose mean log(sampler / policy) is above this; 0: off."""

    def __post_init__(self) -> None:
        require(self.low >= 0, "objective.mismatch.low", "must not be negative", self.low)
        rule = f"must be above objective.mismatch.low ({self.low})"
        require(self.high > self.low, "objective.mismatch.high", rule, self.high)
        for name in ("veto", "off_policy"):
            require(getattr(self, name) >= 0, f"objective.mismatch.{name}", "must not be negative", getattr(self, name))

    @property
    def active(self) -> bool:
        return self.kind != "none" or self.veto > 0 or self.off_policy > 0


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """f-DPG (arXiv:2302.08215): the distribution p that the policy approaches, and by which D_f(policy || p)."""

    kind: Literal["tilt", "filter"] = "tilt"
    """tilt: reference * exp(reward / beta); filter: reference * [reward >= 1]."""
    beta: float = 0.5
    divergence: Literal["reverse_kl", "forward_kl", "jensen_shannon", "total_variation", "chi_squared", "neyman"] = (
        "jensen_shannon"
    )

    def __post_init__(self) -> None:
        require(self.beta > 0, "objective.target.beta", "must be positive", self.beta)


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The slots of the objective; a method is one row of choices."""

    advantage: Advantage = "group_zscore"
    overlong: OverlongConfig = field(default_factory=OverlongConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    """Used by advantage=target."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    """Used by advantage=critic."""
    ratio: Literal["token", "sequence", "none"] = "token"
    """token: importance ratio of each token; sequence: its geometric mean over the answer (GSPO); none: plain policy
    gradient."""
    clip: ClipConfig = field(default_factory=ClipConfig)
    old_policy: Literal["sampler", "learner"] = "sampler"
    """Denominator of the ratio: the engine's log-probs at rollout (covers staleness and engine mismatch), or the
    learner's own before its first update of the step."""
    mismatch: MismatchConfig = field(default_factory=MismatchConfig)
    gates: GatesConfig = field(default_factory=GatesConfig)
    divergence: DivergenceConfig = field(default_factory=DivergenceConfig)
    divergences: dict[str, DivergenceConfig] = field(default_factory=dict)
    """Further divergence terms, by names of your own."""
    entropy_bonus: float = 0.0
    """Weight of the mean entropy of the tokens' distributions, whose gradient is exact over the vocabulary."""
    replay_weight: float = 0.0
    """Weight of the mean negative log-likelihood of replayed right answers (`replay`), per token; 0: none."""
    recap: RecapConfig = field(default_factory=RecapConfig)
    reduction: Reduction = "token_mean"
    constant_length: int = 0
    """reduction=constant: the fixed L_max of Dr.GRPO, in tokens."""

    def __post_init__(self) -> None:
        if self.reduction == "constant":
            rule = "must be positive when reduction is 'constant'"
            require(self.constant_length > 0, "objective.constant_length", rule, self.constant_length)
        rule = "must not be negative"
        require(self.entropy_bonus >= 0, "objective.entropy_bonus", rule, self.entropy_bonus)
        require(self.replay_weight >= 0, "objective.replay_weight", rule, self.replay_weight)
        rule = "must be other than 'divergence', which is the name of the first term, and 'replay'"
        taken = {"divergence", "replay"} & self.divergences.keys()
        require(not taken, "objective.divergences", rule, list(self.divergences))
        rule = "must be other than 'none' without a divergence, an entropy bonus or replay: nothing would be learned"
        learns = bool(self.terms) or self.entropy_bonus > 0 or self.replays
        require(self.advantage != "none" or learns, "objective.advantage", rule, self.advantage)
        joint = any(term.wiring == "joint" for term in self.terms.values())
        rule = "must be 'token' for a divergence wired jointly, whose slope the ratio of its token has to weigh"
        require(not joint or self.ratio == "token", "objective.ratio", rule, self.ratio)
        rule = (
            "must be 'learner' for a mismatch correction: with the sampler's own log-probs as denominator the ratio "
            "corrects already, and a weight would count it twice"
        )
        weighs = self.mismatch.kind != "none"
        require(not weighs or self.old_policy == "learner", "objective.old_policy", rule, self.old_policy)

        steered = [t.coefficient.kind for t in self.terms.values() if t.coefficient.kind in ("adaptive", "safe")]
        rule = (
            "follows the KL to the reference on the policy's own answers, which some divergence term with "
            "samples=on_policy and anchor=reference must have measured"
        )
        measured = not steered or "reference" in self.anchors
        require(measured, "objective.divergence.coefficient.kind", rule, "".join(steered[:1]))
        self._check_shares()

    def _check_shares(self) -> None:
        for term in self.terms.values():
            kind, of = term.coefficient.kind, term.coefficient.of
            rule = "must not be 'share' on stored answers: it follows what the policy's own answers show"
            require(kind != "share" or not term.rehearses, "objective.divergence.coefficient.kind", rule, kind)
            whole = [name for name, other in self.terms.items() if other.coefficient.kind != "rest"]
            rule = f"must be another term ({', '.join(whole) or 'none'}) for a rest, and empty otherwise"
            require(of in whole if kind == "rest" else not of, "objective.divergence.coefficient.of", rule, of)

    @property
    def terms(self) -> dict[str, DivergenceConfig]:
        """The divergence terms that act, the first one under the name `divergence`."""
        return {name: term for name, term in {"divergence": self.divergence, **self.divergences}.items() if term.active}

    def reduction_of(self, term: DivergenceConfig) -> Reduction:
        """How the tokens of a divergence term are summed up."""
        return self.reduction if term.reduction == "same" else term.reduction

    @property
    def rehearses(self) -> bool:
        return any(term.rehearses for term in self.terms.values())

    @property
    def replays(self) -> bool:
        return self.replay_weight > 0

    @property
    def weighted(self) -> list[str]:
        """Names of all that has a coefficient: the divergence terms, and the replay loss."""
        return [*self.terms, *(["replay"] if self.replays else [])]

    @property
    def scores_first(self) -> bool:
        """Whether something is decided by what the policy says of a batch before its first update."""
        return self.advantage == "critic" or any(term.weights.importance != "none" for term in self.terms.values())

    @property
    def hidden_anchors(self) -> list[str]:
        """Names of the references whose hidden states are needed."""
        terms = self.terms.values()
        wanted = (term.anchor for term in terms if term.exact or term.potential or term.weights.needs_distance)
        return list(dict.fromkeys(wanted))

    @property
    def anchors(self) -> list[str]:
        """Names of the references that have to score the policy's own answers."""
        wanted = ["reference"] if self.advantage == "target" else []
        return list(dict.fromkeys([*wanted, *(term.scored_by for term in self.terms.values() if term.scored_by)]))
