"""The Wasserstein regulariser: what each token adds to the entropic optimal transport from the policy to its anchor.

WPR, arXiv:2602.01685. C tokens of a chunk, V vocabulary, D width of the embeddings, K tokens of a support. The support
is the `top` likeliest tokens of both and the one that was drawn, filled up to K = min(2 top + 1, V) with the likeliest
others; what is left of each distribution is one more, which no mass enters or leaves.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from configs.terms import DivergenceConfig
from objectives.divergence.estimators import HIGHEST
from objectives.divergence.f_divergences import LOWEST, bounded
from objectives.divergence.truncation import told_apart

POSITIONS = 32
"""Positions whose costs exist at a time: with top = 128 (K = 257) and D = 4096 the embeddings of their supports are
135 MB in float32, and each of the few [POSITIONS, K + 1, K + 1] 9 MB, whatever the chunk and the vocabulary."""
ROWS = 256
"""Tokens whose distances to all others exist at a time: with V = 152k, 156 MB."""
SLACK = 1e-4
"""Relative error between two computations of one distance, within which a neighbour stays one."""
LEAST = -80.0
"""Log of the least mass left over: the support may be all there is."""


class TokenSpace(NamedTuple):
    """Where tokens are, and how far their mass may move."""

    embeddings: Tensor
    """[V, D]: the anchor's input embeddings."""
    radius: Tensor
    """float32 [V]: the distance to the last neighbour of each."""


@torch.no_grad()
def token_space(embeddings: Tensor, neighbours: int) -> TokenSpace:
    """The space of the tokens with `embeddings` [V, D], each with so many nearest `neighbours` besides itself."""
    points, count = embeddings.float(), min(neighbours + 1, len(embeddings))
    radius = [torch.cdist(part, points).topk(count, largest=False).values[:, -1] for part in points.split(ROWS)]
    return TokenSpace(embeddings=embeddings, radius=torch.cat(radius))


def wasserstein(
    cfg: DivergenceConfig, logits: Tensor, anchor_logits: Tensor, targets: Tensor, space: TokenSpace
) -> Tensor:
    """float32 [C], in units of cost: wired jointly the potential phi of the drawn `targets` [C], of mean 0 under the
    policy; over the vocabulary E_policy[phi] - E_anchor[phi] with phi held fixed, whose gradient is
    E_policy[phi grad log policy].

    phi = phi_{policy, anchor} - phi_{policy, policy}, the gradient of the Sinkhorn divergence in the policy, so that
    both are 0 where policy and anchor agree. `logits` and `anchor_logits` [C, V], at the sampling temperature.
    """
    logp, anchor = logits.log_softmax(-1), anchor_logits.detach().log_softmax(-1)
    ids = support(logp.detach(), anchor, targets, cfg.top)
    phi = potentials(cfg, logp.detach(), anchor, ids, space)
    if cfg.wiring == "joint":
        return phi[:, :-1].gather(-1, (ids == targets[:, None]).int().argmax(-1, keepdim=True)).squeeze(-1)
    # Both distributions add up to 1, so what is left over needs no term of its own.
    above_rest = phi[:, :-1] - phi[:, -1:]
    return ((logp.gather(-1, ids).exp() - anchor.gather(-1, ids).exp()) * above_rest).sum(-1)


@torch.no_grad()
def support(logp: Tensor, anchor: Tensor, targets: Tensor, top: int) -> Tensor:
    """int64 [C, K], ascending: the tokens that are told apart, by log-probs [C, V]."""
    many, vocabulary = min(top, logp.shape[-1]), logp.shape[-1]
    taken = torch.maximum(logp, anchor)
    for ids in (logp.topk(many).indices, anchor.topk(many).indices, targets[:, None]):
        taken = taken.scatter(-1, ids, torch.inf)
    return taken.topk(min(2 * top + 1, vocabulary)).indices.sort(-1).values


@torch.no_grad()
def potentials(cfg: DivergenceConfig, logp: Tensor, anchor: Tensor, ids: Tensor, space: TokenSpace) -> Tensor:
    """[C, K + 1]: the debiased potential of the tokens `ids` [C, K] and of the rest, of mean 0 under the policy."""
    log_p, log_q = masses(logp, ids), masses(anchor, ids)
    found = [log_p.new_zeros(0, log_p.shape[-1])]
    for p, q, tokens in zip(log_p.split(POSITIONS), log_q.split(POSITIONS), ids.split(POSITIONS), strict=True):
        log_kernel = kernel(space, tokens, cfg.transport.epsilon)
        to_anchor, to_itself = (
            row_potential(p, other, log_kernel, cfg.transport.epsilon, cfg.transport.iterations) for other in (q, p)
        )
        found.append(to_anchor - to_itself)
    phi = torch.cat(found)
    return phi - (log_p.exp() * phi).sum(-1, keepdim=True)


def masses(logp: Tensor, ids: Tensor) -> Tensor:
    """[C, K + 1]: log-probs of the tokens `ids`, and of all the rest together, which is never nothing."""
    known, rest = told_apart(logp, ids).split([ids.shape[-1], 1], -1)
    return torch.cat([known, rest.clamp(min=LEAST)], -1)


def kernel(space: TokenSpace, ids: Tensor, epsilon: float) -> Tensor:
    """float32 [C, K + 1, K + 1]: -cost / epsilon, symmetric; -inf where neither token is a neighbour of the other, and
    between the rest, last, and any token."""
    points, radius = space.embeddings[ids].float(), space.radius[ids]
    cost = torch.cdist(points, points)
    near = cost <= torch.maximum(radius[:, :, None], radius[:, None, :]) * (1 + SLACK)
    log_kernel = torch.nn.functional.pad(torch.where(near, -cost / epsilon, -torch.inf), (0, 1, 0, 1), value=-torch.inf)
    log_kernel.diagonal(dim1=-2, dim2=-1).zero_()
    return log_kernel


def row_potential(log_p: Tensor, log_q: Tensor, log_kernel: Tensor, epsilon: float, iterations: int) -> Tensor:
    """[C, K]: epsilon log a after so many sweeps of Sinkhorn, a the scaling of rows whose marginal is p, from log
    marginals [C, K] and a symmetric log kernel [C, K, K]. In the log domain, where far costs are no underflow.

    Converged, its gradient E_p[phi grad log p] is that of min <P, cost> - epsilon H(P). WPR, section 3.
    """
    log_a = log_p - log_kernel.logsumexp(-1)
    for _ in range(iterations - 1):
        log_b = log_q - (log_kernel + log_a[:, None, :]).logsumexp(-1)
        log_a = log_p - (log_kernel + log_b[:, None, :]).logsumexp(-1)
    return epsilon * log_a


def drawn_value(potential: Tensor, logp: Tensor, logp_anchor: Tensor) -> Tensor:
    """(1 - 1 / u) phi [N], detached: drawn from the policy, the unbiased estimate of E_policy[phi] - E_anchor[phi]."""
    log_u = bounded(logp.detach() - logp_anchor, LOWEST, HIGHEST)
    return (1 - (-log_u).exp()) * potential
