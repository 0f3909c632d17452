"""Rules between the slots of the objective: which choices exclude each other, with the reason."""

from typing import TYPE_CHECKING

from configs.checks import require
from configs.rewards import ANSWER_REWARD, BY_REWARD, MEAN_ZERO, check_rewards, with_answer
from configs.terms import LATER, TermConfig

if TYPE_CHECKING:
    from configs.objective import ObjectiveConfig

RATIO_OF_CLIP = {
    "sapo": ("token", "a function of a token's own ratio"),
    "dppo": ("token", "decided by a token's own probability"),
    "gmpo": ("sequence", "made on the log-ratios whose mean over the answer is the ratio"),
}
"""The ratio that a kind of clip needs, and what the clip is."""
COUNT_RIGHT = ("pass_k_zscore", "weighted_sign", "unlikely_zscore", "uniform_zscore")
"""Advantages that treat an answer of reward 1 or more as right."""


def check_slots(objective: "ObjectiveConfig") -> None:
    """Check the slots against each other.

    Raises:
        ValueError: a choice excludes another one.
    """
    rule = "must be other than 'none' without a term, an entropy bonus or replay: nothing would be trained on"
    learns = bool(objective.terms) or objective.entropy_bonus > 0 or objective.replays
    require(objective.advantage != "none" or learns, "advantage", rule, objective.advantage)
    _check_whole_answers(objective)
    _check_pair_term(objective)
    _check_ratio(objective)
    _check_rewards(objective)
    require("replay" not in objective.terms, "terms", "must not name a term 'replay'", list(objective.terms))
    for name, term in objective.terms.items():
        _check_coefficient(objective, f"terms.{name}.coefficient.", term)
    _check_negative_coefficients(objective)


def _check_whole_answers(objective: "ObjectiveConfig") -> None:
    """Check the advantages whose loss is one of whole answers."""
    rule = "must be 'sequence_mean_token_sum' for advantage=pairs, whose loss is one of whole answers"
    summed = objective.advantage != "pairs" or objective.reduction == "sequence_mean_token_sum"
    require(summed, "reduction", rule, objective.reduction)
    rule = "must be 'none' for pairs.winners=solution: an answer of the task has no log-probs of the sampler"
    require(not objective.imitates or objective.ratio == "none", "ratio", rule, objective.ratio)
    flows = objective.advantage == "flow"
    rule = "must be 'sequence_mean_token_mean' for advantage=flow, whose residual has an answer's mean log-probs"
    require(not flows or objective.reduction == "sequence_mean_token_mean", "reduction", rule, objective.reduction)
    rule = "must be 'none' for advantage=flow, whose weight is the ratio of the whole answer (flow.clip)"
    require(not flows or objective.ratio == "none", "ratio", rule, objective.ratio)


def _check_pair_term(objective: "ObjectiveConfig") -> None:
    """Check the term whose value is in the margin of the pairs."""
    name = objective.pair_term
    if not name:
        return
    rule = "must name a term on explored answers in the vocabulary wiring"
    fits = name in objective.terms and objective.terms[name].exact and not objective.terms[name].rehearses
    require(fits, "pairs.term", rule, name)
    term = objective.terms[name]
    rule = "must be 'same' for the term of the pairs, whose loss is one of whole answers"
    require(term.reduction == "same", f"terms.{name}.reduction", rule, term.reduction)
    rule = "must be left out for the term of the pairs, whose sum over an answer has no weights"
    require(not term.weights.chosen, f"terms.{name}.weights", rule, term.weights.changed)


def _check_ratio(objective: "ObjectiveConfig") -> None:
    """Check what needs a certain ratio, clip or denominator."""
    joint = any(term.wiring == "joint" for term in objective.terms.values())
    rule = "must be 'token' for a term in the joint wiring, whose slope is weighted by the ratio of its token"
    require(not joint or objective.ratio == "token", "ratio", rule, objective.ratio)
    rule = "must not be 'sapo' for a term in the joint wiring, whose slope is weighted by the ratio of its token"
    require(not joint or objective.clip.kind != "sapo", "clip.kind", rule, objective.clip.kind)
    ratio, what = RATIO_OF_CLIP.get(objective.clip.kind, (objective.ratio, ""))
    rule = f"must be '{ratio}' for clip.kind={objective.clip.kind}: the clip is {what}"
    require(objective.ratio in (ratio, "none"), "ratio", rule, objective.ratio)
    rule = (
        "must be 'learner' for a mismatch correction: with the sampler's log-probs as denominator the ratio corrects "
        "the mismatch already, and a weight would count it twice"
    )
    weighs = objective.mismatch.kind != "none"
    require(not weighs or objective.old_policy == "learner", "old_policy", rule, objective.old_policy)


def _check_rewards(objective: "ObjectiveConfig") -> None:
    """Check several rewards, the penalty on long answers and experience against the advantage."""
    advantage = objective.advantage
    single = "" if advantage != "pairs" or objective.pairs.compares else " with pairs.loss=kto"
    counts_right = advantage in COUNT_RIGHT or bool(single)
    rule = f"must be 0 for advantage={advantage}{single}: below reward 1 it would count a long right answer as wrong"
    counts = counts_right and objective.overlong.limit > 0
    require(not counts, "overlong.limit", rule, objective.overlong.limit)
    rule = f"must be 0, except for the advantages {', '.join(MEAN_ZERO)}: others read log-probs of new answers"
    baseline = advantage in MEAN_ZERO or not objective.has_experience
    require(baseline, "experience.fraction", rule, objective.experience.fraction)
    check_rewards(objective.rewards)
    only_gates = all(r.weight == (name == ANSWER_REWARD) for name, r in with_answer(objective.rewards).items())
    rule = f"must be gates of weight 0 for advantage={advantage}{single}, which counts answers of reward 1 as right"
    counts = counts_right and not only_gates
    require(not counts, "rewards", rule, {name: reward.weight for name, reward in objective.rewards.items()})
    by_reward = objective.combine == "weighted_sum" or advantage in BY_REWARD
    rule = f"must be 'weighted_sum', except for the advantages {', '.join(BY_REWARD)}"
    require(by_reward, "combine", rule, objective.combine)
    rule = f"must not be 'whitened_advantages', except for the advantages {', '.join(MEAN_ZERO)}"
    whitens = objective.combine == "whitened_advantages"
    require(not whitens or advantage in MEAN_ZERO, "combine", rule, objective.combine)


def _check_coefficient(objective: "ObjectiveConfig", path: str, term: TermConfig) -> None:
    kind, of = term.coefficient.kind, term.coefficient.of
    rule = "follows the KL to the reference on explored answers, so some term needs route=explore and anchor=reference"
    measured = kind not in ("adaptive", "safe") or "reference" in objective.anchors
    require(measured, f"{path}kind", rule, kind)
    rule = "must not be 'adaptive_fraction' on rehearsed answers: it follows explored answers"
    require(kind != "adaptive_fraction" or not term.rehearses, f"{path}kind", rule, kind)
    others = [name for name, other in objective.terms.items() if other.coefficient.kind != "complement"]
    rule = f"must be another term ({', '.join(others) or 'none'}) for kind=complement, and empty otherwise"
    require(of in others if kind == "complement" else not of, f"{path}of", rule, of)


def _check_negative_coefficients(objective: "ObjectiveConfig") -> None:
    """Refuse a negative coefficient where the sum of the terms would have no minimum.

    a KL(policy || p) - b KL(policy || q) with a > b is (a - b) KL(policy || (p^a / q^b)^(1 / (a - b)) / Z) plus a
    constant, as log policy has the coefficient a - b. With a < b it falls without bound as the policy leaves q.
    """
    rule = (
        "must not be negative, except for an unweighted reverse KL on explored answers (estimator other than k3 and"
        " naive) whose constant coefficient has a positive sum with those of its like"
    )
    for name, term in objective.terms.items():
        if term.coefficient.value < 0:
            alike = [other for other in objective.terms.values() if _form(other) == _form(term)]
            bounded = _sums(term) and sum(other.coefficient.value for other in alike) > 0
            require(bounded, f"terms.{name}.coefficient.value", rule, term.coefficient.value)


def _form(term: TermConfig) -> tuple[object, ...]:
    """Return what the losses of two reverse KLs must share to be one loss."""
    return term.wiring, term.level, term.estimator, term.horizon, term.reduction, _sums(term)


def _sums(term: TermConfig) -> bool:
    """Return whether a sum of such terms, each with a constant coefficient, is a reverse KL again."""
    weighted = term.weights.chosen or term.reweights or term.root or term.top or term.horizon in LATER
    gradient = term.name == "reverse_kl" and not term.rehearses and term.estimator not in ("k3", "naive")
    return gradient and not weighted and term.coefficient.kind == "constant"
