"""Divergences between whole next-token distributions, exact and differentiable: what the vocabulary wiring takes.

C tokens of a chunk, V vocabulary. Gradients flow through the policy's logits only, with the prefixes held fixed.
"""

import torch
from torch import Tensor

from configs.terms import DivergenceConfig
from objectives.divergence.batch_sinkhorn import batch_sinkhorn
from objectives.divergence.estimators import bounded
from objectives.divergence.f_divergences import DIVERGENCES
from objectives.divergence.truncation import told_apart
from objectives.divergence.wasserstein import TokenSpace, wasserstein

LIMIT = 40.0
"""Bound on |log u| of one token of the vocabulary: e^40 times a probability of e^-40 is still of size 1."""


def vocabulary_values(
    cfg: DivergenceConfig,
    logits: Tensor,
    anchor_logits: Tensor,
    targets: Tensor,
    *,
    space: TokenSpace | None = None,
    blocks: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """float32 [C], nats: the divergence at each position from `logits` and `anchor_logits` [C, V], both already at the
    sampling temperature; `targets` int64 [C] are the tokens that were drawn. wasserstein needs the `space` of the
    tokens, batch_sinkhorn the places and sizes [C] of `answer_blocks`."""
    if cfg.name == "wasserstein":
        assert space is not None, "wasserstein needs to know where the tokens are"
        return wasserstein(cfg, logits, anchor_logits, targets, space)
    if cfg.name == "batch_sinkhorn":
        assert blocks is not None, "batch_sinkhorn needs to know the blocks"
        return batch_sinkhorn(cfg, logits, anchor_logits, *blocks)
    logp, anchor = logits.log_softmax(-1), anchor_logits.detach().log_softmax(-1)
    if cfg.name == "plackett_luce":
        return plackett_luce(logits, anchor_logits.detach())
    if 0 < cfg.top < logits.shape[-1]:
        logp, anchor = with_rest(logp, anchor, cfg.top)
    if cfg.name == "mixed_kl":
        return mixed_kl(logp, anchor, cfg.alpha)
    return f_divergence(cfg, logp, anchor)


def with_rest(logp: Tensor, anchor: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Log-probs [C, top + 1] of the anchor's `top` likeliest tokens, and last of all others together, from [C, V].

    Telling fewer tokens apart never raises an f-divergence, so it is at most the whole one, grows with `top`, and is
    the whole one from V - 1 on. KDRL's top-K, arXiv:2506.02208.
    """
    chosen = anchor.topk(top, -1).indices
    return told_apart(logp, chosen), told_apart(anchor, chosen)


def f_divergence(cfg: DivergenceConfig, logp: Tensor, anchor: Tensor) -> Tensor:
    """[C]: sum_a anchor(a) (f(u_a) - f'(1)(u_a - 1)), u = policy / anchor, from log-probs [C, V].

    The tangent adds nothing to the sum and keeps every summand from being negative.
    """
    at = DIVERGENCES[cfg.name](bounded(logp - anchor, -LIMIT, LIMIT), cfg.alpha)
    return (anchor.exp() * at.above_tangent).sum(-1)


def mixed_kl(logp: Tensor, teacher: Tensor, sharpness: float) -> Tensor:
    """[C]: (1 - g) KL(teacher || policy) + g KL(policy || teacher), g = sigmoid((H_policy - H_teacher) / sharpness).

    BD-KD, arXiv:2212.12965, weighs the two by the entropy gap; its exact weights are not in the sources. g, detached,
    is near 1 where the policy is flatter than the teacher, which seeks modes, and near 0 where it is sharper.
    """
    gap = entropy(logp.detach()) - entropy(teacher)
    g = (gap / sharpness).sigmoid()
    forward = (teacher.exp() * (teacher - logp)).sum(-1)
    backward = (logp.exp() * (logp - teacher)).sum(-1)
    return (1 - g) * forward + g * backward


def plackett_luce(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """[C]: PLD, arXiv:2506.12542: sum_k alpha_k (logsumexp_{l >= k} s_l - s_k), classes by descending teacher logit,
    alpha the teacher's softmax. There is no true label here, so the teacher's first choice heads the list.

    Convex in the policy's logits s, and blind to a constant added to them. It is not 0 at its least value, which it
    takes where the policy gives the choices the teacher's order as surely as it can.
    """
    order = teacher_logits.argsort(-1, descending=True)
    ranked = logits.gather(-1, order)
    rest = ranked.flip(-1).logcumsumexp(-1).flip(-1)
    alpha = teacher_logits.gather(-1, order).softmax(-1)
    return (alpha * (rest - ranked)).sum(-1)


@torch.no_grad()
def reverse_kl(logits: Tensor, anchor_logits: Tensor) -> Tensor:
    """[C], nats: KL(policy || anchor) at each position, from logits [C, V]; without gradient."""
    logp, anchor = logits.log_softmax(-1), anchor_logits.log_softmax(-1)
    return (logp.exp() * (logp - anchor)).sum(-1)


def entropy(logp: Tensor) -> Tensor:
    """[C], nats, from log-probs [C, V]."""
    return -(logp.exp() * logp).sum(-1)


@torch.no_grad()
def certainty(logits: Tensor, kind: str) -> Tensor:
    """[C] in [0, 1]: 1 - H / log V (negentropy), 1 + log max p / log V (negentropy_max), or max p (max_prob).

    J of the prioritised KL, arXiv:2502.06533, section 3.
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
    """[C]: log-prob of `targets` [C] under pi^power / Z, `power` [C]: 0 is uniform, 1 is pi, to the last bit.

    RAPO, arXiv:2510.03865, whose Z normalises over whole answers; here every token has its own.
    """
    return (logits * power[:, None]).log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
