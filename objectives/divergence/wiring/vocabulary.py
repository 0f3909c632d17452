"""Vocabulary wiring: a loss per token that is exact over the vocabulary, on either route.

The learner computes the values while it holds the logits of a chunk (`objectives/divergence/distributions.py`).
"""

from torch import Tensor

from objectives.divergence.wiring.term import TermTokens, Wiring


def _exact(term: TermTokens) -> Tensor:
    assert term.exact is not None, "the vocabulary wiring needs the values computed from the logits"
    return term.exact


def _loss(term: TermTokens) -> Tensor:
    return term.mean(_exact(term))


def _values(term: TermTokens) -> Tensor:
    return _exact(term).detach()


WIRING = Wiring(loss=_loss, values=_values)
