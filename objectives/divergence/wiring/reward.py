"""Reward wiring: the slope of f under the policy before the update is subtracted from the advantage."""

import torch
from torch import Tensor

from configs.terms import TermConfig
from objectives.divergence.estimators import at_sampled_tokens, sampled_value, slope
from objectives.divergence.wiring.term import TermTokens, Wiring


def penalty(cfg: TermConfig, logp: Tensor, logp_anchor: Tensor, weights: Tensor, seq: Tensor) -> Tensor:
    """Return each token's own slope [M]; to_go: plus f(u) / u of all later tokens of its answer; later: these alone;
    later_mean: their mean.

    The gradient of E_policy[sum_t w_t D_f(t)], with nothing held fixed, is
    E_policy[sum_t (w_t f'(u_t) + sum_{s > t} w_s f(u_s) / u_s) grad log policy_t]. For the reverse KL this is k1 summed
    to the end of the answer. The first summand is the gradient with prefixes held fixed, which the vocabulary wiring
    has without noise. Source: MiniLLM, arXiv:2306.08543, which also divides the second by the number of later tokens.

    Args:
        logp, logp_anchor, weights: float32 [M]; seq: int64 [M], ascending, the trajectory of each token.
    """
    own = weights * slope(cfg, logp, logp_anchor)
    if cfg.horizon == "token":
        return own
    at = at_sampled_tokens(cfg, logp.detach(), logp_anchor)
    later = weights * at.value * (-at.log_u).exp()
    # Answer by answer: a difference of running sums over the batch would lose small answers behind large ones.
    answers = later.split(torch.bincount(seq).tolist())
    after = [torch.cat([a[1:].flip(0).cumsum(0).flip(0), a.new_zeros(min(len(a), 1))]) for a in answers]
    if cfg.horizon == "later_mean":
        after = [a / torch.arange(len(a) - 1, -1, -1, device=a.device).clamp(min=1) for a in after]
    summed = torch.cat([later.new_zeros(0), *after])
    return own + summed if cfg.horizon == "to_go" else summed


def _penalty(term: TermTokens) -> Tensor:
    return penalty(term.cfg, term.logp, term.logp_anchor, term.weights, term.seq)


def _values(term: TermTokens) -> Tensor:
    return sampled_value(term.cfg, term.logp, term.logp_anchor)


WIRING = Wiring(credited_penalty=_penalty, values=_values)
