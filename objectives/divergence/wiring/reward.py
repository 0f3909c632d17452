"""Reward wiring: the slope of f under the policy that sampled the answers is subtracted from the advantage."""

import torch
from torch import Tensor

from configs.terms import TermConfig
from objectives.divergence.estimators import at_sampled_tokens, sampled_value, slope
from objectives.divergence.wiring.term import TermTokens, Wiring


def to_go(cfg: TermConfig, logp: Tensor, logp_anchor: Tensor, weights: Tensor, seq: Tensor) -> Tensor:
    """Return each token's own slope plus f(u) / u of all later tokens of its answer [M]; nothing is held fixed.

    The gradient of E_policy[sum_t w_t D_f(t)] is
    E_policy[sum_t (w_t f'(u_t) + sum_{s > t} w_s f(u_s) / u_s) grad log policy_t]. For the reverse KL this is k1 summed
    to the end of the answer.

    Args:
        logp, logp_anchor, weights: float32 [M]; seq: int64 [M], ascending, the trajectory of each token.
    """
    at = at_sampled_tokens(cfg, logp.detach(), logp_anchor)
    own, later = weights * slope(cfg, logp, logp_anchor), weights * at.value * (-at.log_u).exp()
    # Answer by answer: a difference of running sums over the batch would lose small answers behind large ones.
    answers = later.split(torch.bincount(seq).tolist())
    after = [torch.cat([a[1:].flip(0).cumsum(0).flip(0), a.new_zeros(min(len(a), 1))]) for a in answers]
    return own + torch.cat([later.new_zeros(0), *after])


def _penalty(term: TermTokens) -> Tensor:
    if term.cfg.horizon == "to_go":
        return to_go(term.cfg, term.logp, term.logp_anchor, term.weights, term.seq)
    return term.weights * slope(term.cfg, term.logp, term.logp_anchor)


def _values(term: TermTokens) -> Tensor:
    return sampled_value(term.cfg, term.logp, term.logp_anchor)


WIRING = Wiring(credited_penalty=_penalty, values=_values)
