"""Joint wiring: the slope of f under the current policy, detached, is subtracted from the advantage.

Reward and divergence are then weighted by one importance ratio and bounded by one clip (RPG, arXiv:2505.17508).
"""

from torch import Tensor

from objectives.divergence.estimators import sampled_value, slope
from objectives.divergence.wasserstein import sampled_transport_value
from objectives.divergence.wiring.term import TermTokens, Wiring


def _penalty(term: TermTokens) -> Tensor:
    if term.cfg.potential:
        assert term.exact is not None, "wasserstein needs its potentials"
        return term.weights * term.exact.detach()
    return term.weights * slope(term.cfg, term.logp, term.logp_anchor)


def _values(term: TermTokens) -> Tensor:
    if term.cfg.potential:
        assert term.exact is not None, "wasserstein needs its potentials"
        return sampled_transport_value(term.exact, term.logp, term.logp_anchor)
    return sampled_value(term.cfg, term.logp, term.logp_anchor)


WIRING = Wiring(current_penalty=_penalty, values=_values)
