"""Preference losses over pairs of answers of one group: DPO and its family."""

from dataclasses import dataclass, field
from typing import Literal

from configs.checks import require, require_not_negative, require_positive
from configs.divergences import DIVERGENCES, check_alpha, check_name, check_preference


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Parameters of advantage=pairs: a loss of every two answers w and l of a group where w has the higher reward.

    With u = policy / anchor of a whole answer, the margin of a pair is m = f'(u_w) - f'(u_l). The loss is the mean over
    the groups that have a pair of the mean over their pairs, weighted by the difference of the two rewards. A group
    whose rewards are all equal has no pair, and no gradient. loss=kto is the exception: a loss of single answers.
    """

    loss: Literal["sigmoid", "squared", "kto"] = "sigmoid"
    """Loss of a margin. sigmoid: -log sigmoid(beta m) (DPO, arXiv:2305.18290); squared: (m - 1 / (2 beta))^2 (IPO,
    arXiv:2310.12036). kto: no margin and no pairs, but the mean over all answers of 1 - sigmoid(beta (log u - z0)) if
    the reward is 1 or more and of 1 - sigmoid(beta (z0 - log u)) if it is below, with z0 = max(0, mean log u of the
    batch), which has no gradient (KTO, arXiv:2402.01306)."""
    right_weight: float = 1.0
    """loss=kto: weight of answers with a reward of 1 or more; the others weigh 1 (lambda_D / lambda_U)."""
    beta: float = 0.1
    """Strength of the divergence to the anchor."""
    divergence: str = field(default="reverse_kl", metadata={"values": DIVERGENCES})
    """The divergence whose slope f' is the score of an answer (f-DPO, arXiv:2309.16240); that of the reverse KL is
    DPO's log u. f' must fall without bound as u falls to 0, so that no answer loses its support."""
    alpha: float = 0.5
    """Parameter of a divergence that is a family, as `objective.terms.NAME.alpha`."""
    lengths: Literal["own", "shorter"] = "own"
    """own: log u is the sum over the answer's tokens. shorter: it is their mean times the number of tokens of the
    shorter answer of the pair, so that length is not preferred (SamPO, arXiv:2406.10957)."""
    winners: Literal["each", "together", "solution"] = "each"
    """each: every two answers are a pair. together: an answer is compared with the mean score of all answers that have
    a higher reward (D2O, arXiv:2403.03419). solution: each answer of the policy, whatever its reward, loses against a
    right answer to its prompt that the task gives (SPIN, arXiv:2401.01335)."""
    anchor: str = "reference"
    """The reference of u: `reference`, or a name of `references`. One that moves with the policy is TR-DPO's
    (arXiv:2404.09656)."""
    mixed_with: str = ""
    """Second reference: the anchor is then the geometric mixture of both, over whole answers (alpha-SPIN,
    arXiv:2404.04291). Its normaliser is that of the prompt, and leaves a pair's margin as it is."""
    mixture: float = 0.5
    """mixed_with: exponent of the second reference; that of `anchor` is 1 minus this."""
    term: str = ""
    """Name of a term in the vocabulary wiring. Its sum over an answer's tokens, times its coefficient, is added to the
    answer's score, and it is trained on by its part in the loss of the pairs (TDPO, arXiv:2404.11999); empty: none."""
    term_on: Literal["losers", "both"] = "losers"
    """term: the answers on which it is trained. losers: those with the lower reward of a pair (TDPO 2); both: also
    those with the higher one, on which it then grows (TDPO 1)."""

    mask: Literal["none", "activations", "learned"] = "none"
    """Weight of each token in the answer's log u and in the sum of `term`, from the hidden state h of `anchor` that
    predicts the token (SparsePO, arXiv:2410.05102, with the last layer alone). activations: the mean of h, mapped to 0
    at the answer's lowest and to 1 at its highest (MaPO); learned: max(0, w h + b), whose w and b are trained by the
    loss of the pairs and start at 0 and 1."""
    mask_learning_rate: float = 1e-4
    """mask=learned: learning rate of w and b, by Adam, one update a step."""
    mask_l1: float = 0.0
    """mask=learned: weight of the sum of both answers' masks in the loss of a pair (L1), which makes them sparse."""

    def __post_init__(self) -> None:
        require_positive(self, "beta", "right_weight", "mask_learning_rate")
        require_not_negative(self, "mask_l1")
        check_name(self.divergence, "divergence")
        check_alpha(self.divergence, self.alpha, "alpha")
        check_preference(self.divergence, self.alpha, "divergence")
        rule = "must be 'own' for winners=together: several answers have no shorter one"
        require(self.lengths == "own" or self.winners != "together", "lengths", rule, self.lengths)
        rule = "must be '' for winners=solution, as a term has no value on the answers of the task"
        require(not self.term or self.winners != "solution", "term", rule, self.term)
        rule = "must be 'own' with a term, whose sum over an answer is that of all its tokens"
        require(self.lengths == "own" or not self.term, "lengths", rule, self.lengths)
        if self.mask != "none":
            for name, only in (("lengths", "own"), ("divergence", "reverse_kl")):
                rule = f"must be {only!r} with a mask, under which log u is a weighted sum over the tokens"
                require(getattr(self, name) == only, name, rule, getattr(self, name))
        require(self.anchor != self.mixed_with, "mixed_with", "must be another reference than anchor", self.mixed_with)
        require(0 < self.mixture < 1, "mixture", "must be between 0 and 1", self.mixture)
        if not self.compares:
            self._check_single_answers()

    def _check_single_answers(self) -> None:
        """Refuse what only a comparison of answers has."""
        rule = "must be 'reverse_kl' for loss=kto, whose z0 is that KL"
        require(self.divergence == "reverse_kl", "divergence", rule, self.divergence)
        for name, only in (("lengths", "own"), ("winners", "each"), ("term", ""), ("mask", "none")):
            rule = f"must be {only!r} for loss=kto, which is a loss of single answers"
            require(getattr(self, name) == only, name, rule, getattr(self, name))
        rule = "must be '' for loss=kto: the normaliser of the mixture would not cancel, as it does in a pair"
        require(not self.mixed_with, "mixed_with", rule, self.mixed_with)

    @property
    def needs_two_answers(self) -> bool:
        """Whether a group of a single answer has no loss."""
        return self.compares and self.winners != "solution"

    @property
    def compares(self) -> bool:
        """Whether the loss compares two answers of a group."""
        return self.loss != "kto"

    @property
    def anchors(self) -> dict[str, float]:
        """The references and their exponents in the anchor."""
        if not self.mixed_with:
            return {self.anchor: 1.0}
        return {self.anchor: 1 - self.mixture, self.mixed_with: self.mixture}
