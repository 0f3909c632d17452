"""One divergence term of the objective: which divergence, on which answers, wired how, with which weights."""

from dataclasses import dataclass, field
from typing import Literal

from configs.checks import require
from configs.coefficient import CoefficientConfig
from configs.divergences import DIVERGENCES, check_alpha, check_name, check_supervised
from configs.forms import OPTIONS, Estimator, Level, Route, Wiring, form_of
from configs.term_weights import TermWeightsConfig
from configs.transport import TransportConfig

LATER = ("later", "later_mean")
"""The horizons at which a token is charged for later tokens alone."""
Reduction = Literal["token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum", "constant"]


@dataclass(frozen=True, kw_only=True)
class TermConfig:
    """A divergence D(policy || anchor) with its answers, wiring, estimator and coefficient."""

    name: str = field(metadata={"values": DIVERGENCES})
    """The divergence. mixed_kl, plackett_luce and batch_sinkhorn have the vocabulary wiring only, wasserstein that and
    the joint wiring; all others are f-divergences, which have every wiring."""
    alpha: float = 0.2
    """Parameter of a family. alpha: towards 1 the forward KL, towards 0 the reverse KL; generalised_jensen_shannon
    and skew_kl: weight of the anchor in the mixture; skew_reverse_kl: weight of the policy in the mixture; tsallis:
    the index q (1 is the reverse KL, 2 chi-squared); mixed_kl: sharpness of the switch between forward and reverse
    KL."""
    anchor: str = "reference"
    """Distribution the policy is compared with: `reference`, `old` (the policy that sampled the answers, RPG's
    pi_ref = pi_old), or a name of `references`."""
    reweight: Literal["none", "reward", "pass_rate"] = "none"
    """Reward-reweighted anchor (RAPO, arXiv:2510.03865): pi_anchor^phi / Z at every token, flat at phi = 0, with phi
    = floor + (1 - floor) r. reward: r is the reward of the answer; pass_rate: the fraction of correct answers in its
    group."""
    reweight_floor: float = 0.5
    """reweight: phi of an answer of reward 0."""
    route: Route = "explore"
    """Answers that the term is estimated on. explore: the policy's own answers; rehearse: stored answers of the
    reference."""
    wiring: Wiring = "loss"
    """How the term enters. loss: a differentiable loss per token; reward: its slope under the sampling policy is
    subtracted from the advantage once per step; joint: its slope under the current policy, detached, is subtracted
    from the advantage, so that one clip bounds both (RPG); vocabulary: a loss per token that is exact over the
    vocabulary and needs the anchor's hidden states."""
    estimator: Estimator = "k3"
    """Estimator of the term from sampled tokens. `breadth show-config` prints the gradient that the choice has. k1:
    f, or its slope; k2: (log u)^2 / 2, on rehearsed answers a regression of their log-probs; k3: f minus its tangent;
    straight_through: value of k3, exact gradient; ratio_weighted: weighted by pi / pi_old, exact for stale answers too;
    naive: differentiated directly; supervised: rehearsed answers as data of probability 1; exact: no sampling
    (vocabulary wiring)."""
    normalised: bool = False
    """Use f itself (RPG's normalised KL) instead of f minus its tangent at u = 1."""
    hinge: float = 0.0
    """loss wiring on explored answers: a token whose |log u| is at most this has no loss, and any other the loss minus
    its value at this distance, in nats (MCPO, arXiv:2604.16972); 0: off."""
    level: Level = "token"
    """Whether u = policy / anchor is the ratio of one token or of a whole answer."""
    root: bool = False
    """Take the square root of the divergence (chi-squared regularisation, arXiv:2403.03185); sequence level only."""
    horizon: Literal["token", "to_go", "later", "later_mean"] = "token"
    """reward wiring: a token is charged for its own slope; to_go: also for the divergence of all later tokens of its
    answer (discount 1); later: for that of all later tokens alone, so that another term, exact over the vocabulary, can
    charge for the token itself (single-step decomposition of MiniLLM, arXiv:2306.08543); later_mean: for the mean over
    the later tokens (its length normalisation)."""
    reduction: Literal["same", "token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum"] = "same"
    """Loss aggregation over the term's tokens; same: `objective.reduction`."""
    top: int = 0
    """vocabulary wiring: keep the anchor's K most likely tokens apart and sum all others into one bucket; 0: keep all.
    wasserstein: also the policy's K most likely tokens and the sampled token."""
    transport: TransportConfig = field(default_factory=TransportConfig)
    """Optimal transport of wasserstein and batch_sinkhorn."""
    weighting: Literal["separate", "by_answer_ratio"] = "separate"
    """rehearse: the term has a mean of its own, or is also multiplied by the number of rehearsed over explored answers
    (official code of DPH-RL)."""
    weights: TermWeightsConfig = field(default_factory=TermWeightsConfig)
    """Per-token weights."""
    coefficient: CoefficientConfig = field(default_factory=CoefficientConfig)
    """Weight of the term in the loss or in the advantage."""

    def __post_init__(self) -> None:
        check_name(self.name, "name")
        check_alpha(self.name, self.alpha, "alpha")
        require(0 <= self.reweight_floor <= 1, "reweight_floor", "must be between 0 and 1", self.reweight_floor)
        require(self.top >= 0, "top", "must not be negative", self.top)
        require(self.hinge >= 0, "hinge", "must not be negative", self.hinge)
        by_token = (self.route, self.level, self.wiring) == ("explore", "token", "loss")
        rule = "must be 0 outside the loss wiring on explored answers at the token level, which has a loss to cut off"
        require(by_token or not self.hinge, "hinge", rule, self.hinge)
        by_anchor = self.estimator != "ratio_weighted" or self.anchor == "old"
        rule = "must be 0 for ratio_weighted with another anchor than 'old': the loss depends on two distances"
        require(by_anchor or not self.hinge, "hinge", rule, self.hinge)
        self._check_form()
        self._check_distributions()
        rule = (
            "must not be 'confidence' on rehearsed answers, whose only stored log-probs are those of anchor 'reference'"
        )
        known = not (self.coefficient.kind == "confidence" and self.rehearses) or self.anchor == "reference"
        require(known, "coefficient.kind", rule, self.coefficient.kind)
        if self.estimator == "supervised":
            check_supervised(self.name, self.alpha, "name")

    def _check_form(self) -> None:
        """Look the term up in the table of legal forms."""
        wirings = DIVERGENCES[self.name].wirings
        rule = f"must be one of {', '.join(wirings)} for {self.name}, which compares whole distributions"
        require(self.wiring in wirings, "wiring", rule, self.wiring)
        form = form_of((self.route, self.level, self.wiring, self.estimator))
        field_, rule = form.refused
        require(not rule, field_, rule, getattr(self, field_, None))
        known = not form.divergences or self.name in form.divergences
        require(known, "estimator", form.why.format(estimator=self.estimator, name=self.name), self.estimator)
        rule = "must be false for a horizon of later tokens alone, where it changes nothing"
        later = self.horizon in LATER
        require(not (later and self.normalised), "normalised", rule, self.normalised)
        for option, rule in form.options.items():
            kept = {
                "anchor=old": self.anchor != "old",
                "anchor=other": self.anchor == "reference",
                "weights": not self.weights.chosen,
                "weights.entropy_power": self.weights.entropy_power == 0,
            }
            legal = kept[option] if option in kept else getattr(self, option) == OPTIONS[option]
            setting = option.partition("=")[0]
            shown = {"weights": self.weights.changed, "weights.entropy_power": self.weights.entropy_power}
            require(legal, setting, rule, shown[setting] if setting in shown else getattr(self, setting))

    def _check_distributions(self) -> None:
        """Check what needs the anchor's whole distributions, and the options of single divergences."""
        rule = "must be false for the policy that sampled the answers: at distance 0 the root has no slope"
        require(not self.root or self.anchor != "old", "root", rule, self.root)
        wanted = {
            "reweight": self.reweight != "none",
            "certainty_power": self.weights.certainty_power > 0,
            "importance": self.weights.needs_distance,
            "wasserstein": self.name == "wasserstein",
        }
        rule = "must be a reference, whose whole distributions {} needs, and not the policy that sampled the answers"
        for name, on in wanted.items():
            require(not on or self.anchor != "old", "anchor", rule.format(name), self.anchor)
        rule = "must be 0 for anchor 'old': the policy is at distance 0 from the policy that sampled the answers"
        require(
            self.anchor != "old" or not self.weights.step_limit, "weights.step_limit", rule, self.weights.step_limit
        )
        rule = "must be 0 outside the vocabulary wiring (wasserstein has it in the joint wiring too)"
        require(self.top == 0 or self.reads_distributions, "top", rule, self.top)
        all_apart = self.name in ("plackett_luce", "batch_sinkhorn")
        require(not all_apart or self.top == 0, "top", f"must be 0 for {self.name}, which needs all tokens", self.top)
        if self.name == "wasserstein":
            rule = "must be positive for wasserstein, whose costs are a matrix over these tokens at every position"
            require(self.top > 0, "top", rule, self.top)
            require(not self.normalised, "normalised", "must be false for wasserstein, which has no f", self.normalised)

    @property
    def rehearses(self) -> bool:
        """Whether the term is estimated on stored answers of the reference."""
        return self.route == "rehearse"

    @property
    def reads_stored_logps(self) -> bool:
        """Whether it reads the log-probs that stored answers have under the reference."""
        return self.rehearses and (not self.exact or self.coefficient.kind == "confidence")

    @property
    def vanishes_at_anchor(self) -> bool:
        """Whether it has no gradient where policy and anchor are equal."""
        differentiated = self.wiring == "loss" and self.estimator in ("k1", "naive", "supervised")
        pulls = self.name == "plackett_luce" or differentiated
        return not (pulls or self.reweights or self.normalised)

    @property
    def reweights(self) -> bool:
        """Whether the anchor is reweighted by the reward."""
        return self.reweight != "none"

    @property
    def exact(self) -> bool:
        """Whether its value at a token is exact over the vocabulary."""
        return self.wiring == "vocabulary"

    @property
    def potential(self) -> bool:
        """Whether a token's penalty is its transport potential, computed from whole distributions."""
        return self.name == "wasserstein" and self.wiring == "joint"

    @property
    def reads_distributions(self) -> bool:
        """Whether the learner computes it from the logits of policy and anchor."""
        return self.exact or self.potential

    @property
    def scored_by(self) -> str:
        """Name of the reference whose log-probs of the explored answers it needs; empty: none."""
        return self.anchor if self.route == "explore" and self.anchor != "old" else ""
