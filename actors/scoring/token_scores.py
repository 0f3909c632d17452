"""Log-probs and entropies of tokens from final hidden states and an LM head, without logits of shape [M, V].

The logits of a chunk of tokens are one tensor [C, V]. The backward pass computes them again and replaces them by their
gradient in place.

Axes: M trained tokens, C tokens of a chunk, R tokens of a slice of a chunk, V vocabulary, D hidden.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

SLICE_BYTES = {"cpu": 2**20, "cuda": 2**25}
"""Bytes of float32 [R, V], the tokens whose softmax is computed at a time. Its intermediate tensors have this size: on
a CPU they fit into the cache, and on a GPU it takes few kernels."""
GRADIENT_ROWS = 8_192
"""Rows of the head's gradient that are computed in bfloat16 before they are added to the float32 sum."""


def token_scores(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, temperature: float, chunk: int
) -> tuple[Tensor, Tensor]:
    """Compute log softmax(logits / temperature) at the targets, and the entropy of softmax(logits / temperature).

    The logits have the dtype of `hidden`; all that follows is float32, as bfloat16 keeps only 3 significant digits, and
    importance ratios are exponentials of differences of log-probs. Gradients of the head are summed over the chunks in
    float32.

    Args:
        hidden: [M, D], final hidden states, in the head's dtype.
        weight, bias: of the LM head, [V, D] and [V].
        targets: int64 [M].
        chunk: most tokens whose logits exist at the same time. If all fit into one chunk, their logits are kept for the
            backward pass.

    Returns:
        Log-probs and entropies, float32 [M], nats, both with gradient.
    """
    keep = torch.is_grad_enabled() and len(hidden) <= chunk
    arguments = (hidden, weight, bias, targets, temperature, chunk, keep)
    scores: tuple[Tensor, Tensor] = _HeadScores.apply(*arguments)  # type: ignore[no-untyped-call]
    return scores


def logit_scores(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the same from float32 logits [C, V], divided by the temperature, that are needed elsewhere too."""
    scores: tuple[Tensor, Tensor] = _LogitScores.apply(logits, targets)  # type: ignore[no-untyped-call]
    return scores


class _HeadScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk: int,
        keep: bool,
    ) -> tuple[Tensor, Tensor]:
        parts, kept = [], None
        for states, at in zip(hidden.split(chunk), targets.split(chunk), strict=True):
            logits = linear(states, weight, bias)
            parts.append(_scores(logits, at, temperature))
            kept = logits if keep else None
            del logits  # freed before those of the next chunk are computed
        logp, softmax = (torch.cat(part, dim=-1) for part in zip(*parts, strict=True))
        ctx.save_for_backward(hidden, weight, bias, targets, softmax, kept)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.set_materialize_grads(False)
        return logp, softmax[0].clone()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_logp: Tensor | None, of_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, softmax, kept = ctx.saved_tensors
        to_hidden, to_weight, to_bias = ctx.needs_input_grad[:3]
        by_hidden = torch.empty_like(hidden) if to_hidden else None
        # Over several chunks, a sum in bfloat16 would lose the small addends.
        several = len(hidden) > ctx.chunk
        by_weight = torch.zeros_like(weight, dtype=torch.float32 if several else None) if to_weight else None
        by_bias = torch.zeros_like(bias, dtype=torch.float32) if to_bias else None
        for start in range(0, len(hidden), ctx.chunk):
            at = slice(start, start + ctx.chunk)
            logits = linear(hidden[at], weight, bias) if kept is None else kept
            upstream = tuple(None if gradient is None else gradient[at] for gradient in (of_logp, of_entropy))
            _replace_by_gradient(logits, targets[at], softmax[:, at], upstream, ctx.temperature)
            if by_hidden is not None:
                torch.mm(logits, weight, out=by_hidden[at])
            if by_weight is not None:
                _add_product(by_weight, logits, hidden[at])
            if by_bias is not None:
                by_bias += logits.sum(0, dtype=torch.float32)
            del logits
        by_head = [None if gradient is None else gradient.to(weight.dtype) for gradient in (by_weight, by_bias)]
        return by_hidden, *by_head, None, None, None, None


class _LogitScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logp, softmax = _scores(logits, targets, 1.0)
        ctx.save_for_backward(logits, targets, softmax)
        ctx.set_materialize_grads(False)
        return logp, softmax[0].clone()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor, None]:
        logits, targets, softmax = ctx.saved_tensors
        gradient = logits.clone()
        _replace_by_gradient(gradient, targets, softmax, upstream, 1.0)
        return gradient, None


def _scores(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log-probs, float32 [C]; and, with x = logits / temperature, entropy, max x and sum of exp(x - max x),
    float32 [3, C]."""
    logp = torch.empty(len(logits), device=logits.device)
    softmax = torch.empty(3, len(logits), device=logits.device)
    for at in _slices(logits):
        rows = logits[at].float()  # [R, V]
        if temperature != 1:
            rows = rows / temperature
        top = rows.amax(-1, keepdim=True)
        rows = rows - top
        exponentials = rows.exp()
        total = exponentials.sum(-1)
        log_total = total.log()
        logp[at] = rows.gather(-1, targets[at, None]).squeeze(-1) - log_total
        softmax[0, at] = log_total - exponentials.mul_(rows).sum(-1) / total
        softmax[1, at], softmax[2, at] = top.squeeze(-1), total
    return logp, softmax


def _replace_by_gradient(
    logits: Tensor, targets: Tensor, softmax: Tensor, upstream: tuple[Tensor | None, ...], temperature: float
) -> None:
    """Replace logits [C, V] by the gradient of the loss with respect to them, in place.

    With p = softmax(logits / T), log-prob l of target t, entropy H, a = dloss/dl and b = dloss/dH, it is
    (a [v = t] - p_v (a + b (log p_v + H))) / T.

    Args:
        softmax: from `_scores`.
        upstream: a and b, float32 [C]; None for 0.
    """
    of_logp, of_entropy = upstream
    if of_logp is None:
        of_logp = torch.zeros_like(targets, dtype=torch.float32)
    for at in _slices(logits):
        entropy, top, total = softmax[:, at, None]
        at_target = of_logp[at, None] / temperature
        rows = logits[at].float()  # the same memory as `logits`, if those are float32
        if temperature != 1:
            rows /= temperature
        rows -= top
        if of_entropy is None:
            rows.exp_().mul_(at_target / -total)
        else:
            p = rows.exp().div_(total)
            slope = of_entropy[at, None] / temperature
            rows.sub_(total.log() - entropy).mul_(slope).add_(at_target).mul_(p).neg_()
        rows.scatter_add_(-1, targets[at, None], at_target)
        if logits.dtype != torch.float32:
            logits[at] = rows


def _slices(logits: Tensor) -> Iterator[slice]:
    size = max(1, SLICE_BYTES[logits.device.type] // (4 * logits.shape[-1]))
    return (slice(start, start + size) for start in range(0, len(logits), size))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left^T right, [V, D], to `total`."""
    if total.dtype == left.dtype:
        total.addmm_(left.T, right)
    else:
        for rows, columns in zip(total.split(GRADIENT_ROWS), left.split(GRADIENT_ROWS, dim=1), strict=True):
            rows += columns.T @ right
