"""Exact, differentiable divergences between whole next-token distributions, for the vocabulary wiring.

C tokens of a chunk, V vocabulary. Gradients flow through the policy's logits only; prefixes are held fixed.
"""

import torch
from torch import Tensor

from configs.terms import TermConfig
from objectives.divergence.batch_sinkhorn import batch_sinkhorn
from objectives.divergence.f_divergences import F_DIVERGENCES, bounded
from objectives.divergence.truncation import truncated
from objectives.divergence.wasserstein import TokenSpace, wasserstein

LIMIT = 40.0
"""Bound on |log u| of one token of the vocabulary. A token of probability e^-40 at u = e^40 still has value 1."""


def vocabulary_values(
    cfg: TermConfig,
    logits: Tensor,
    anchor_logits: Tensor,
    targets: Tensor,
    *,
    space: TokenSpace | None = None,
    blocks: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return the divergence at each position, float32 [C] in nats, with gradient.

    Args:
        logits, anchor_logits: float32 [C, V], both at the sampling temperature.
        targets: int64 [C], the sampled tokens.
        space: metric space of the tokens, for wasserstein.
        blocks: positions and sizes [C] from `answer_blocks`, for batch_sinkhorn.
    """
    if cfg.name == "wasserstein":
        assert space is not None, "wasserstein needs the embeddings of the tokens"
        return wasserstein(cfg, logits, anchor_logits, targets, space)
    if cfg.name == "batch_sinkhorn":
        assert blocks is not None, "batch_sinkhorn needs the blocks"
        return batch_sinkhorn(cfg, logits, anchor_logits, *blocks)
    logp, anchor = logits.log_softmax(-1), anchor_logits.detach().log_softmax(-1)
    if cfg.name == "plackett_luce":
        return plackett_luce(logits, anchor_logits.detach(), targets if cfg.rehearses else None)
    if 0 < cfg.top < logits.shape[-1]:
        logp, anchor = with_rest(logp, anchor, cfg.top)
    if cfg.name == "mixed_kl":
        return mixed_kl(logp, anchor, cfg.alpha)
    return f_divergence(cfg, logp, anchor)


def with_rest(logp: Tensor, anchor: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Return both log-probs truncated to the anchor's `top` most likely tokens plus one bucket, [C, top + 1] each.

    Merging tokens never raises an f-divergence. So the truncated one is at most the whole one, grows with `top`, and
    equals it from V - 1 on. Source: KDRL's top-K, arXiv:2506.02208.
    """
    chosen = anchor.topk(top, -1).indices
    return truncated(logp, chosen), truncated(anchor, chosen)


def f_divergence(cfg: TermConfig, logp: Tensor, anchor: Tensor) -> Tensor:
    """Return sum_a anchor(a) (f(u_a) - f'(1)(u_a - 1)) [C], u = policy / anchor, from log-probs [C, V].

    The tangent sums to 0 and makes every summand non-negative.
    """
    at = F_DIVERGENCES[cfg.name](bounded(logp - anchor, -LIMIT, LIMIT), cfg.alpha)
    return (anchor.exp() * at.above_tangent).sum(-1)


def mixed_kl(logp: Tensor, teacher: Tensor, sharpness: float) -> Tensor:
    """Return (1 - g) KL(teacher || policy) + g KL(policy || teacher) [C], from log-probs [C, V].

    g = sigmoid((H_policy - H_teacher) / sharpness), detached: near 1 (mode-seeking) where the policy is flatter than
    the teacher, near 0 where it is sharper. Source: BD-KD, arXiv:2212.12965, weighs both by the entropy gap; its
    exact weights are not published.
    """
    gap = entropy(logp.detach()) - entropy(teacher)
    g = (gap / sharpness).sigmoid()
    forward = (teacher.exp() * (teacher - logp)).sum(-1)
    backward = (logp.exp() * (logp - teacher)).sum(-1)
    return (1 - g) * forward + g * backward


def plackett_luce(logits: Tensor, teacher_logits: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return sum_k alpha_k (logsumexp_{l >= k} s_l - s_k) [C], tokens in descending order of the teacher's logits.

    s are the policy's logits, alpha the teacher's probabilities. It is convex in s, invariant to a constant added to s,
    and its minimum is not 0. Source: PLD, arXiv:2506.12542.

    Args:
        labels: int64 [C], the true tokens, which come before all others; None: the teacher's most likely one is first.
    """
    ranks = teacher_logits
    if labels is not None:
        ranks = ranks.scatter(-1, labels[:, None], torch.inf)
    order = ranks.argsort(-1, descending=True)
    ranked = logits.gather(-1, order)
    rest = ranked.flip(-1).logcumsumexp(-1).flip(-1)
    alpha = teacher_logits.gather(-1, order).softmax(-1)
    return (alpha * (rest - ranked)).sum(-1)


@torch.no_grad()
def reverse_kl(logits: Tensor, anchor_logits: Tensor) -> Tensor:
    """Return KL(policy || anchor) at each position [C], nats, from logits [C, V]; without gradient."""
    logp, anchor = logits.log_softmax(-1), anchor_logits.log_softmax(-1)
    return (logp.exp() * (logp - anchor)).sum(-1)


def entropy(logp: Tensor) -> Tensor:
    """Return the entropy [C], nats, from log-probs [C, V]."""
    return -(logp.exp() * logp).sum(-1)


@torch.no_grad()
def certainty(logits: Tensor, kind: str) -> Tensor:
    """Return the certainty J of each next-token distribution [C], in [0, 1], from logits [C, V].

    negentropy: 1 - H / log V; negentropy_max: 1 + log max p / log V; max_prob: max p. Source: prioritised KL,
    arXiv:2502.06533, section 3.
    """
    logp = logits.log_softmax(-1)
    size = torch.log(logits.new_tensor(float(logits.shape[-1])))
    if kind == "negentropy":
        return (1 - entropy(logp) / size).clamp(0, 1)
    if kind == "negentropy_max":
        return (1 + logp.amax(-1) / size).clamp(0, 1)
    assert kind == "max_prob", f"no certainty {kind}"
    return logp.amax(-1).exp()


@torch.no_grad()
def powered_logps(logits: Tensor, targets: Tensor, power: Tensor) -> Tensor:
    """Return the log-prob of `targets` [C] under pi^power / Z [C], with `power` [C]: 0 is uniform, 1 is pi.

    Source: RAPO, arXiv:2510.03865. Its Z normalises over whole answers; here each token has its own Z.
    """
    return (logits * power[:, None]).log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
