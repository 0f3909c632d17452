"""One divergence term of the objective as settings: which divergence, from which answers, wired how, weighted how."""

from dataclasses import dataclass, field
from typing import Literal

from configs.checks import require
from configs.supervised import check_supervised
from configs.term_weights import TermWeightsConfig
from configs.transport import TransportConfig, check_potential

DivergenceName = Literal[
    "none",
    "reverse_kl",
    "forward_kl",
    "jensen_shannon",
    "generalised_jensen_shannon",
    "alpha",
    "total_variation",
    "chi_squared",
    "neyman",
    "hellinger",
    "jeffreys",
    "tsallis",
    "skew_kl",
    "skew_reverse_kl",
    "mixed_kl",
    "plackett_luce",
    "wasserstein",
    "batch_sinkhorn",
]
"""Each name but `none` and VOCABULARY_ONLY is a function of `objectives/divergence/f_divergences.py`."""
VOCABULARY_ONLY = ("mixed_kl", "plackett_luce", "wasserstein", "batch_sinkhorn")
"""No f-divergences: functions of two whole distributions (`objectives/divergence/`); wasserstein is joint too."""
Estimator = Literal["k1", "k2", "k3", "straight_through", "ratio_weighted", "naive", "supervised", "exact"]
Wiring = Literal["loss", "reward", "joint", "vocabulary"]
Reduction = Literal["token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum", "constant"]


@dataclass(frozen=True, kw_only=True)
class CoefficientConfig:
    kind: Literal["constant", "linear", "cosine", "step", "adaptive", "safe", "share", "rest"] = "constant"
    """linear, cosine: from `value` to `final` over `over` steps; step: `value` until `over`, then `final`; adaptive:
    Ziegler et al. (arXiv:1909.08593), proportional control of the KL per trajectory; safe: SAFE (arXiv:2602.04651), a
    smoothed KL above a threshold that entropy, reward velocity and phase move; `value` scales it; share: DistiLLM
    (arXiv:2402.03898), 0.1 more, to at most 1, whenever the term's own mean, looked at every `over` steps, has risen
    by 0.1 nats; rest: 1 less the coefficient of the term `of`."""
    value: float = 0.0
    """The coefficient, or its start."""
    final: float = 0.0
    """linear, cosine, step: the coefficient at the end."""
    over: int = 0
    """linear, cosine, step: steps from start to end; 0: the steps of the run. share: steps between two looks."""
    of: str = ""
    """rest: name of the other term; the first one's is `divergence`."""
    target: float = 6.0
    """adaptive: nats per trajectory."""
    horizon: int = 10_000
    """adaptive: trajectories."""

    def __post_init__(self) -> None:
        field_ = "objective.divergence.coefficient."
        for name in ("value", "final", "over"):
            require(getattr(self, name) >= 0, field_ + name, "must not be negative", getattr(self, name))
        for name in ("target", "horizon"):
            require(getattr(self, name) > 0, field_ + name, "must be positive", getattr(self, name))
        require(self.kind != "share" or self.over > 0, field_ + "over", "must be positive for a share", self.over)
        at_most_all = self.kind != "share" or self.value <= 1
        require(at_most_all, field_ + "value", "must be at most 1 for a share", self.value)

    @property
    def scheduled(self) -> bool:
        """Whether it is a function of the step alone."""
        return self.kind in ("linear", "cosine", "step")

    @property
    def ever(self) -> float:
        """The largest value it can be known to take: 0 exactly when the term never acts."""
        if self.kind in ("share", "rest"):
            return 1.0
        return max(self.value, self.final if self.scheduled else 0.0)


@dataclass(frozen=True, kw_only=True)
class DivergenceConfig:
    name: DivergenceName = "none"
    alpha: float = 0.2
    """The parameter of a family. alpha: towards 1 the forward KL, towards 0 the reverse KL; generalised_jensen_shannon:
    the weight of the anchor in the middle; skew_kl, skew_reverse_kl: how much of its own side the middle holds;
    tsallis: q, 1 being the reverse KL and 2 chi-squared."""
    anchor: str = "reference"
    """What the policy is compared with: `reference`, `old` (the policy that gave the answers, RPG's pi_ref = pi_old),
    or a name of `references`."""
    reweight: Literal["none", "reward", "pass_rate"] = "none"
    """RAPO (arXiv:2510.03865): the anchor is pi_anchor^phi / Z at every token instead, which is flat at phi = 0;
    phi = floor + (1 - floor) r, and r the reward of the answer, or the share of correct answers in its group."""
    reweight_floor: float = 0.5
    """phi of a reward of 0."""
    samples: Literal["on_policy", "rehearsal"] = "on_policy"
    """Whose answers estimate it: the policy's own, or stored answers of the reference."""
    wiring: Wiring = "loss"
    """loss: a differentiable token term; reward: its slope, by the old policy, off the advantage; joint: its slope, by
    the current policy and detached, off the advantage, so that one clip bounds both (RPG); vocabulary: a token term
    that is exact over the vocabulary, at the price of the anchor's hidden states."""
    estimator: Estimator = "k3"
    """`breadth show-config` says in words what gradient the choice really has."""
    normalised: bool = False
    """Whether f stands as it is (RPG's normalised KL) instead of less its tangent at 1, whose mean is 0."""
    level: Literal["token", "sequence"] = "token"
    """Whether u is the ratio of a token or of a whole answer."""
    root: bool = False
    """The square root of the divergence, as in chi-squared regularisation (arXiv:2403.03185); sequence level only."""
    horizon: Literal["token", "to_go"] = "token"
    """reward wiring: a token pays for its own slope, or for the divergence at all that follow too (discount 1)."""
    reduction: Literal["same", "token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum"] = "same"
    """Of the term's tokens; same: that of the policy gradient."""
    top: int = 0
    """vocabulary wiring: the anchor's so many likeliest tokens are told apart, and the rest are one; 0: all are.
    wasserstein: those of the policy, and the one that was drawn, besides."""
    transport: TransportConfig = field(default_factory=TransportConfig)
    weighting: Literal["separate", "by_answer_share"] = "separate"
    """Of stored answers: by means of their own, or times stored over explored answers (official code of DPH-RL)."""
    weights: TermWeightsConfig = field(default_factory=TermWeightsConfig)
    coefficient: CoefficientConfig = field(default_factory=CoefficientConfig)

    def __post_init__(self) -> None:
        if self.name == "none":
            rule = "must be 0 without a divergence"
            require(self.coefficient.ever == 0, "objective.divergence.coefficient.value", rule, self.coefficient.ever)
            return
        if self.name == "tsallis":
            rule = "must be in (0, 2] for tsallis: above it the power of a single ratio overflows"
            require(0 < self.alpha <= 2, "objective.divergence.alpha", rule, self.alpha)
        else:
            require(0 < self.alpha < 1, "objective.divergence.alpha", "must be in (0, 1)", self.alpha)
        check_potential(self.name, self.wiring, anchor=self.anchor, top=self.top, normalised=self.normalised)
        self._check_columns()
        exact = self.wiring == "vocabulary"
        rule = "must be exact in the vocabulary wiring and only there"
        require((self.estimator == "exact") == exact, "objective.divergence.estimator", rule, self.estimator)
        rule = f"must be 'vocabulary' for {self.name}, which compares whole distributions"
        allowed = exact or self.name not in VOCABULARY_ONLY or self.potential
        require(allowed, "objective.divergence.wiring", rule, self.wiring)
        if exact:
            self._check_exact()
        elif self.samples == "rehearsal":
            self._check_stored()
        elif self.wiring == "loss":
            self._check_loss()
        else:
            self._check_slope()
        self._check_level()
        self._check_form()

    def _check_columns(self) -> None:
        field_ = "objective.divergence."
        floor = self.reweight_floor
        require(0 <= floor <= 1, field_ + "reweight_floor", "must be between 0 and 1", floor)
        rule = "must be 'none' on stored answers, whose log-probs are those of the plain reference"
        require(self.reweight == "none" or self.samples == "on_policy", field_ + "reweight", rule, self.reweight)
        rule = "must be 'token' for a reweighted anchor: Z over whole answers is out of reach"
        require(self.reweight == "none" or self.level == "token", field_ + "level", rule, self.level)
        rule = "must be a reference, whose whole distributions {} needs, and not the policy that gave the answers"
        wanted = {
            "reweight": self.reweight != "none",
            "certainty_power": self.weights.certainty_power > 0,
            "importance": self.weights.needs_distance,
        }
        for name, on in wanted.items():
            require(not on or self.anchor != "old", field_ + "anchor", rule.format(name), self.anchor)
        rule = "compares the policy with an anchor it left; must be 0 for the policy that gave the answers"
        away = self.anchor != "old" or self.weights.step_limit == 0
        require(away, field_ + "weights.step_limit", rule, self.weights.step_limit)
        rule = "must not be negative, and 0 outside the vocabulary wiring and for what needs all tokens apart"
        known = self.wiring == "vocabulary" and self.name not in ("plackett_luce", "batch_sinkhorn")
        require(self.top == 0 or (self.top > 0 and (known or self.potential)), field_ + "top", rule, self.top)

    def _check_stored(self) -> None:
        field_ = "objective.divergence."
        rule = "stored answers have no advantage to take from; must be 'loss'"
        require(self.wiring == "loss", field_ + "wiring", rule, self.wiring)
        rule = "on stored reference answers must be k1 (f as it is) or k3 (f less its tangent), or supervised"
        require(self.estimator in ("k1", "k3", "supervised"), field_ + "estimator", rule, self.estimator)
        if self.estimator == "supervised":
            check_supervised(field_ + "name", self.name, field_ + "alpha", self.alpha)
        rule = "must be 'reference' for stored answers, which the reference gave"
        require(self.anchor == "reference", field_ + "anchor", rule, self.anchor)
        rule = "stored answers belong to no group; must be left at their defaults"
        require(self.weights == TermWeightsConfig(), field_ + "weights", rule, self.weights)

    def _check_exact(self) -> None:
        field_ = "objective.divergence."
        rule = "must be a reference: the distributions of the policy that gave the answers are not kept"
        require(self.anchor != "old", field_ + "anchor", rule, self.anchor)
        rule = "stored answers belong to no group; must be left at their defaults"
        plain = self.samples == "on_policy" or self.weights == TermWeightsConfig()
        require(plain, field_ + "weights", rule, self.weights)
        rule = "must be 'token' in the vocabulary wiring"
        require(self.level == "token", field_ + "level", rule, self.level)
        require(self.horizon == "token", field_ + "horizon", rule, self.horizon)

    def _check_slope(self) -> None:
        field_ = "objective.divergence."
        rule = f"the {self.wiring} wiring takes off the detached slope of f, which is the k1 estimator; must be k1"
        require(self.estimator == "k1", field_ + "estimator", rule, self.estimator)
        rule = "the joint wiring knows only a token's own slope; must be 'token'"
        require(self.horizon == "token" or self.wiring == "reward", field_ + "horizon", rule, self.horizon)
        rule = "the slope by the old policy against itself is 0 everywhere; must be 'joint' or 'loss'"
        require(self.anchor != "old" or self.wiring == "joint", field_ + "wiring", rule, self.wiring)
        rule = f"the {self.wiring} wiring is summed up with the policy gradient, as objective.reduction; must be 'same'"
        require(self.reduction == "same", field_ + "reduction", rule, self.reduction)
        rule = "must be 0 in the reward wiring, which is settled before the policy's entropy is known"
        known = self.wiring == "joint" or self.weights.entropy_power == 0
        require(known, field_ + "weights.entropy_power", rule, self.weights.entropy_power)

    def _check_loss(self) -> None:
        where = "objective.divergence.estimator"
        rule = (
            "a differentiated k1 has no gradient in expectation, so nothing would be regularised; "
            "must be straight_through, k2, k3 or ratio_weighted"
        )
        require(self.estimator != "k1", where, rule, self.estimator)
        sequence_chi = self.estimator == "k3" and self.name == "chi_squared" and self.level == "sequence"
        rule = (
            f"differentiating {self.estimator} of {self.name} on the policy's own answers is not its "
            "gradient; must be straight_through or ratio_weighted (or naive, where just that is wanted)"
        )
        free = self.estimator in ("straight_through", "ratio_weighted", "naive")
        allowed = free or self.name == "reverse_kl" or sequence_chi
        require(allowed, where, rule, self.estimator)
        rule = "must be 'token' in the loss wiring"
        require(self.horizon == "token", "objective.divergence.horizon", rule, self.horizon)

    def _check_form(self) -> None:
        rule = "changes nothing here, or makes k3 a differentiated k1, which regularises nothing; must be false"
        kept = self.wiring in ("reward", "joint") or self.estimator == "ratio_weighted"
        require(kept or not self.normalised, "objective.divergence.normalised", rule, self.normalised)
        stored = self.samples == "rehearsal"
        rule = "'supervised' takes answers as certain, which only stored ones can be; must be another"
        require(stored or self.estimator != "supervised", "objective.divergence.estimator", rule, self.estimator)
        rule = "must be 'separate' on the policy's own answers, which have one mean with the policy gradient"
        require(stored or self.weighting == "separate", "objective.divergence.weighting", rule, self.weighting)

    def _check_level(self) -> None:
        field_ = "objective.divergence."
        rule = "must be false at the token level: it is defined for whole answers"
        require(not self.root or self.level == "sequence", field_ + "root", rule, self.root)
        rule = "must be false for the policy that gave the answers: at distance 0 the root has no slope"
        require(not self.root or self.anchor != "old", field_ + "root", rule, self.root)
        if self.level == "token":
            return
        require(self.samples == "on_policy", field_ + "level", "must be 'token' for stored answers", self.level)
        rule = "must be 'same' at the sequence level, where the term is the mean over answers"
        require(self.reduction == "same", field_ + "reduction", rule, self.reduction)
        rule = "must be false at the sequence level"
        require(not self.normalised, field_ + "normalised", rule, self.normalised)
        rule = "must be 'token' at the sequence level: every token pays for its whole answer"
        require(self.horizon == "token", field_ + "horizon", rule, self.horizon)
        rule = "must be left at their defaults at the sequence level"
        require(self.weights == TermWeightsConfig(), field_ + "weights", rule, self.weights)
        exact = self.wiring == "reward" or (self.wiring == "loss" and self.estimator == "k3")
        rule = "at the sequence level must be 'reward' (exact), or 'loss' with k3 (the value differentiated)"
        require(exact, field_ + "wiring", rule, self.wiring)

    @property
    def active(self) -> bool:
        return self.name != "none"

    @property
    def rehearses(self) -> bool:
        return self.active and self.samples == "rehearsal"

    @property
    def reweights(self) -> bool:
        return self.active and self.reweight != "none"

    @property
    def exact(self) -> bool:
        """Whether its value at a token is exact over the vocabulary, from the anchor's whole distributions."""
        return self.active and self.wiring == "vocabulary"

    @property
    def potential(self) -> bool:
        """Whether each token's own penalty comes from whole distributions, the policy's as it is now among them."""
        return self.name == "wasserstein" and self.wiring == "joint"

    @property
    def scored_by(self) -> str:
        """Name of the reference that has to score the policy's own answers; empty: none has to."""
        return self.anchor if self.active and self.samples == "on_policy" and self.anchor != "old" else ""
