"""Wasserstein regulariser: entropic optimal transport between the next-token distributions of policy and anchor.

Source: WPR, arXiv:2602.01685. C tokens of a chunk, V vocabulary, D width of the embeddings, K tokens of a support.
The support of a position is the `top` most likely tokens of both distributions and the sampled token, filled up to K
= min(2 top + 1, V) with the most likely others. The remaining mass is one more bucket, which no mass enters or
leaves.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from configs.terms import TermConfig
from objectives.divergence.estimators import HIGHEST
from objectives.divergence.f_divergences import LOWEST, bounded
from objectives.divergence.truncation import truncated

POSITIONS = 32
"""Positions whose costs exist at the same time: with top = 128 (K = 257) and D = 4096 the embeddings of their
supports are 135 MB in float32, and each of the few [POSITIONS, K + 1, K + 1] 9 MB, whatever the chunk and the
vocabulary."""
ROWS = 256
"""Tokens whose distances to all others exist at the same time: with V = 152k, 156 MB."""
SLACK = 1e-4
"""Tolerance of the neighbour test: relative difference between two computations of the same distance."""
LEAST = -80.0
"""Log of the least remaining mass, for a support that covers the whole distribution."""


class TokenSpace(NamedTuple):
    """The metric space of tokens: their embeddings, and how far mass may move."""

    embeddings: Tensor
    """[V, D]: the anchor's input embeddings."""
    radius: Tensor
    """float32 [V]: distance of each token to its last neighbour."""


@torch.no_grad()
def token_space(embeddings: Tensor, neighbours: int) -> TokenSpace:
    """Return the space of the tokens with `embeddings` [V, D], each with its nearest `neighbours` besides itself."""
    points, count = embeddings.float(), min(neighbours + 1, len(embeddings))
    radius = [torch.cdist(part, points).topk(count, largest=False).values[:, -1] for part in points.split(ROWS)]
    return TokenSpace(embeddings=embeddings, radius=torch.cat(radius))


def wasserstein(cfg: TermConfig, logits: Tensor, anchor_logits: Tensor, targets: Tensor, space: TokenSpace) -> Tensor:
    """Return the potential or the loss at each position [C], in units of cost.

    phi = phi_{policy, anchor} - phi_{policy, policy} is the gradient of the Sinkhorn divergence with respect to the
    policy, and 0 where policy and anchor agree. Joint wiring: phi of the sampled token, of mean 0 under the policy.
    Vocabulary wiring: E_policy[phi] - E_anchor[phi] with phi held fixed, whose gradient is
    E_policy[phi grad log policy].

    Args:
        logits, anchor_logits: float32 [C, V], at the sampling temperature; targets: int64 [C], the sampled tokens.
    """
    logp, anchor = logits.log_softmax(-1), anchor_logits.detach().log_softmax(-1)
    ids = support(logp.detach(), anchor, targets, cfg.top)
    phi = potentials(cfg, logp.detach(), anchor, ids, space)
    if cfg.wiring == "joint":
        return phi[:, :-1].gather(-1, (ids == targets[:, None]).int().argmax(-1, keepdim=True)).squeeze(-1)
    # Both distributions sum to 1, so the remaining bucket needs no summand of its own.
    above_rest = phi[:, :-1] - phi[:, -1:]
    return ((logp.gather(-1, ids).exp() - anchor.gather(-1, ids).exp()) * above_rest).sum(-1)


@torch.no_grad()
def support(logp: Tensor, anchor: Tensor, targets: Tensor, top: int) -> Tensor:
    """Return the support of each position, int64 [C, K], ascending, from log-probs [C, V]."""
    many, vocabulary = min(top, logp.shape[-1]), logp.shape[-1]
    taken = torch.maximum(logp, anchor)
    for ids in (logp.topk(many).indices, anchor.topk(many).indices, targets[:, None]):
        taken = taken.scatter(-1, ids, torch.inf)
    return taken.topk(min(2 * top + 1, vocabulary)).indices.sort(-1).values


@torch.no_grad()
def potentials(cfg: TermConfig, logp: Tensor, anchor: Tensor, ids: Tensor, space: TokenSpace) -> Tensor:
    """Return the debiased potential of the tokens `ids` [C, K] and of the rest [C, K + 1], of mean 0 under the
    policy."""
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
    """Return the log-probs of the tokens `ids` and of the rest [C, K + 1]; that of the rest is bounded below."""
    known, rest = truncated(logp, ids).split([ids.shape[-1], 1], -1)
    return torch.cat([known, rest.clamp(min=LEAST)], -1)


def kernel(space: TokenSpace, ids: Tensor, epsilon: float) -> Tensor:
    """Return the log kernel -cost / epsilon [C, K + 1, K + 1], symmetric.

    It is -inf where neither token is a neighbour of the other, and between the rest (last) and any token.
    """
    points, radius = space.embeddings[ids].float(), space.radius[ids]
    cost = torch.cdist(points, points)
    near = cost <= torch.maximum(radius[:, :, None], radius[:, None, :]) * (1 + SLACK)
    log_kernel = torch.nn.functional.pad(torch.where(near, -cost / epsilon, -torch.inf), (0, 1, 0, 1), value=-torch.inf)
    log_kernel.diagonal(dim1=-2, dim2=-1).zero_()
    return log_kernel


def row_potential(log_p: Tensor, log_q: Tensor, log_kernel: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Return epsilon log a [C, K] after `iterations` Sinkhorn sweeps, where a scales the rows to the marginal p.

    At convergence E_p[phi grad log p] is the gradient of min <P, cost> - epsilon H(P). The sweeps are in the log
    domain, because exp(-cost / epsilon) of distant tokens underflows. Source: WPR, section 3.

    Args: log_p, log_q: log marginals [C, K]; log_kernel: symmetric [C, K, K].
    """
    log_a = log_p - log_kernel.logsumexp(-1)
    for _ in range(iterations - 1):
        log_b = log_q - (log_kernel + log_a[:, None, :]).logsumexp(-1)
        log_a = log_p - (log_kernel + log_b[:, None, :]).logsumexp(-1)
    return epsilon * log_a


def sampled_transport_value(potential: Tensor, logp: Tensor, logp_anchor: Tensor) -> Tensor:
    """Return (1 - 1 / u) phi [M], detached: on sampled tokens an unbiased estimate of E_policy[phi] - E_anchor[phi]."""
    log_u = bounded(logp.detach() - logp_anchor, LOWEST, HIGHEST)
    return (1 - (-log_u).exp()) * potential
