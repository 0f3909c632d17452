"""Rules between the divergence terms of an objective."""

from collections.abc import Mapping, Sequence

from configs.checks import require
from configs.terms import LATER, TermConfig


def check_terms(terms: Mapping[str, TermConfig], anchors: Sequence[str]) -> None:
    """Check the terms against each other.

    Args:
        anchors: the references that score the explored answers.

    Raises:
        ValueError: a name or a coefficient is not allowed.
    """
    require("replay" not in terms, "terms", "must not name a term 'replay'", list(terms))
    for name, term in terms.items():
        _check_coefficient(f"terms.{name}.coefficient.", term, terms, anchors)
    _check_negative_coefficients(terms)


def check_pair_term(name: str, terms: Mapping[str, TermConfig]) -> None:
    """Check the term whose value is in the margin of the pairs."""
    rule = "must name a term on explored answers in the vocabulary wiring"
    fits = name in terms and terms[name].exact and not terms[name].rehearses
    require(fits, "pairs.term", rule, name)
    term = terms[name]
    rule = "must be 'same' for the term of the pairs, whose loss is one of whole answers"
    require(term.reduction == "same", f"terms.{name}.reduction", rule, term.reduction)
    rule = "must be left out for the term of the pairs, whose sum over an answer has no weights"
    require(not term.weights.chosen, f"terms.{name}.weights", rule, term.weights.changed)


def _check_coefficient(path: str, term: TermConfig, terms: Mapping[str, TermConfig], anchors: Sequence[str]) -> None:
    kind, of = term.coefficient.kind, term.coefficient.of
    rule = "follows the KL to the reference on explored answers, so some term needs route=explore and anchor=reference"
    measured = kind not in ("adaptive", "safe") or "reference" in anchors
    require(measured, f"{path}kind", rule, kind)
    rule = "must not be 'adaptive_fraction' on rehearsed answers: it follows explored answers"
    require(kind != "adaptive_fraction" or not term.rehearses, f"{path}kind", rule, kind)
    others = [name for name, other in terms.items() if other.coefficient.kind != "complement"]
    rule = f"must be another term ({', '.join(others) or 'none'}) for kind=complement, and empty otherwise"
    require(of in others if kind == "complement" else not of, f"{path}of", rule, of)


def _check_negative_coefficients(terms: Mapping[str, TermConfig]) -> None:
    """Refuse a negative coefficient where the sum of the terms would have no minimum.

    a KL(policy || p) - b KL(policy || q) with a > b is (a - b) KL(policy || (p^a / q^b)^(1 / (a - b)) / Z) plus a
    constant, as log policy has the coefficient a - b. With a < b it falls without bound as the policy leaves q.
    """
    rule = (
        "must not be negative, except for an unweighted reverse KL on explored answers (estimator other than k3 and"
        " naive) whose constant coefficient has a positive sum with those of its like"
    )
    for name, term in terms.items():
        if term.coefficient.value < 0:
            alike = [other for other in terms.values() if _form(other) == _form(term)]
            bounded = _sums(term) and sum(other.coefficient.value for other in alike) > 0
            require(bounded, f"terms.{name}.coefficient.value", rule, term.coefficient.value)


def _form(term: TermConfig) -> tuple[object, ...]:
    """Return what the losses of two reverse KLs must share to be one loss."""
    return term.wiring, term.level, term.estimator, term.horizon, term.reduction, _sums(term)


def _sums(term: TermConfig) -> bool:
    """Return whether a sum of such terms, each with a constant coefficient, is a reverse KL again."""
    weighted = term.weights.chosen or term.reweights or term.root or term.top or term.horizon in LATER or term.hinge
    gradient = term.name == "reverse_kl" and not term.rehearses and term.estimator not in ("k3", "naive")
    return gradient and not weighted and term.coefficient.kind == "constant"
