"""Log-probs and entropies of tokens from final hidden states and an LM head, without logits of shape [M, V].

The logits of a chunk of tokens are one tensor [C, V]. The backward pass computes them again and replaces them by their
gradient in place.

Axes: M trained tokens, C tokens of a chunk, R tokens of a slice of a chunk, V vocabulary, D hidden.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

LogitsFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Computes a number per token from a chunk of logits: (logits float32 [C, V], divided by the sampling temperature;
sampled tokens int64 [C]; their positions in the batch int64 [C]) -> float32 [C]. Gradients flow through the logits
only."""
SLICE_BYTES = {"cpu": 2**20, "cuda": 2**25}
"""Bytes of float32 [R, V], the tokens whose softmax is computed at a time. Its intermediate tensors have this size: on
a CPU they fit into the cache, and on a GPU it takes few kernels."""
HEAD_BYTES = 2**24
"""Bytes of the part of a bfloat16 head whose float32 copy or gradient exists at a time: the second-level cache of a GPU
holds it until it is added to the sum."""


def token_scores(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    temperature: float,
    sizes: Sequence[int],
    rows: Tensor | None = None,
    functions: Sequence[LogitsFunction] = (),
) -> list[Tensor]:
    """Compute log softmax(logits / temperature) at the targets, the entropy of softmax(logits / temperature), and
    functions of the logits, a chunk of logits at a time.

    Logits and all that follows are float32 also where the head is bfloat16: bfloat16 keeps only 3 significant digits,
    and importance ratios are exponentials of differences of log-probs. The backward pass computes a chunk's logits
    again and replaces them by their gradient. That of log-prob and entropy is a formula; that of a function is
    differentiated at once, chunk by chunk, and added. Gradients of the head are summed over the chunks in float32, and
    rounded once if the head is bfloat16.

    Args:
        hidden: [M, D], final hidden states, in the head's dtype.
        weight, bias: of the LM head, [V, D] and [V].
        targets: int64 [M].
        sizes: tokens of each chunk, whose logits exist at the same time. The logits of a single chunk are kept for the
            backward pass.
        rows: int64 [M], the positions of the tokens in the batch, for the functions.

    Returns:
        Log-probs, entropies and the values of the functions, float32 [M]. The first two are in nats, with gradient.
        The value of a function has a gradient if the function has one.
    """
    grad = torch.is_grad_enabled()
    arguments = (hidden, weight, bias, targets, rows, temperature, list(sizes), grad, tuple(functions))
    scores: list[Tensor] = list(_HeadScores.apply(*arguments))  # type: ignore[no-untyped-call]
    return scores


def head_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return float32 logits [C, V], without rounding them to the dtype of the head.

    Of a bfloat16 head on a GPU, the matrix product itself has float32 results (this path is not tested without a GPU).
    Elsewhere a part of the head is cast at a time.
    """
    if weight.dtype == torch.float32:
        return linear(hidden, weight, bias)
    if not hidden.is_cpu:
        logits = torch.mm(hidden, weight.T, out_dtype=torch.float32)
    else:
        states, size = hidden.float(), _head_rows(weight)
        logits = states.new_empty(len(hidden), len(weight))
        for part, columns in zip(weight.split(size), logits.split(size, dim=1), strict=True):
            torch.mm(states, part.float().T, out=columns)
    return logits if bias is None else logits.add_(bias)


class _HeadScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        rows: Tensor | None,
        temperature: float,
        sizes: list[int],
        grad: bool,
        functions: tuple[LogitsFunction, ...],
    ) -> tuple[Tensor, ...]:
        parts, softmaxes, kept, graph = [], [], None, None
        differentiable: list[bool] = []
        keep = grad and len(sizes) == 1
        # Functions read logits that are divided by the temperature; else it is divided by in the softmax.
        left = 1.0 if functions else temperature
        for at in _chunks(sizes):
            logits = head_logits(hidden[at], weight, bias)
            if functions and temperature != 1:
                logits /= temperature
            logp, softmax = _scores(logits, targets[at], left)
            values = _Values(functions, logits, targets[at], rows if rows is None else rows[at], grad)
            differentiable = [value.requires_grad for value in values.columns]
            parts.append((logp, *(value.detach() for value in values.columns)))
            softmaxes.append(softmax)
            kept, graph = (logits, values) if keep else (None, None)
            del logits, values  # freed before those of the next chunk are computed
        logp, *extra = (torch.cat(part) for part in zip(*parts, strict=True))
        softmax = torch.cat(softmaxes, dim=-1)
        ctx.save_for_backward(hidden, weight, bias, targets, rows, softmax, kept)
        ctx.temperature, ctx.left, ctx.sizes = temperature, left, sizes
        # A function without gradient is not called in the backward pass.
        ctx.functions = [function if own else None for function, own in zip(functions, differentiable, strict=True)]
        ctx.graph = graph
        ctx.mark_non_differentiable(*(value for value, own in zip(extra, differentiable, strict=True) if not own))
        ctx.set_materialize_grads(False)
        return logp, softmax[0].clone(), *extra

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, rows, softmax, kept = ctx.saved_tensors
        to_hidden, to_weight, to_bias = ctx.needs_input_grad[:3]
        by_hidden = torch.empty_like(hidden) if to_hidden else None
        by_weight = torch.zeros_like(weight, dtype=torch.float32) if to_weight else None
        by_bias = torch.zeros_like(bias, dtype=torch.float32) if to_bias else None
        for at in _chunks(ctx.sizes):
            of_logp, of_entropy, *slopes = [None if slope is None else slope[at] for slope in upstream]
            if kept is None:
                logits = head_logits(hidden[at], weight, bias)
                if ctx.functions and ctx.temperature != 1:
                    logits /= ctx.temperature
                wanted = [f if slope is not None else None for f, slope in zip(ctx.functions, slopes, strict=True)]
                values = _Values(wanted, logits, targets[at], rows if rows is None else rows[at], True)
            else:
                logits, values = kept, ctx.graph
            further = values.gradient(slopes)
            ctx.graph = None
            del values
            _replace_by_gradient(logits, targets[at], softmax[:, at], of_logp, of_entropy, ctx.left)
            if further is not None:
                logits += further
                del further
            if ctx.functions and ctx.temperature != 1:
                logits /= ctx.temperature
            if by_bias is not None:
                by_bias += logits.sum(0)
            slope = logits.to(weight.dtype)  # matrix products of bfloat16 are fast, and their sums are float32
            del logits
            if by_hidden is not None:
                torch.mm(slope, weight, out=by_hidden[at])
            if by_weight is not None:
                _add_product(by_weight, slope, hidden[at])
            del slope
        by_head = [None if gradient is None else gradient.to(weight.dtype) for gradient in (by_weight, by_bias)]
        return by_hidden, *by_head, None, None, None, None, None, None


class _Values:
    """Values of functions of a chunk of logits, and their gradient with respect to the logits [C, V].

    Args:
        functions: None for a function that is left out.
        grad: whether the gradient will be needed.
    """

    def __init__(
        self,
        functions: Sequence[LogitsFunction | None],
        logits: Tensor,
        targets: Tensor,
        rows: Tensor | None,
        grad: bool,
    ) -> None:
        self.logits = logits.detach().requires_grad_(grad)
        self.columns: list[Tensor] = []
        with torch.set_grad_enabled(grad):
            for function in functions:
                assert rows is not None, "functions need the tokens' positions"
                column = logits.new_zeros(0) if function is None else function(self.logits, targets, rows)
                self.columns.append(column)

    def gradient(self, upstream: Sequence[Tensor | None]) -> Tensor | None:
        """Return the gradient of a loss whose gradient with respect to the values is `upstream`; None for 0."""
        pairs = [
            (value, slope)
            for value, slope in zip(self.columns, upstream, strict=True)
            if value.requires_grad and slope is not None
        ]
        if not pairs:
            return None
        values, slopes = zip(*pairs, strict=True)
        return torch.autograd.grad(values, self.logits, slopes)[0]


def _chunks(sizes: Sequence[int]) -> Iterator[slice]:
    ends = list(accumulate(sizes))
    return (slice(end - size, end) for end, size in zip(ends, sizes, strict=True))


def _scores(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log-probs, float32 [C]; and, with x = logits / temperature, entropy, max x and sum of exp(x - max x),
    float32 [3, C]."""
    logp = torch.empty(len(logits), device=logits.device)
    softmax = torch.empty(3, len(logits), device=logits.device)
    for at in _slices(logits):
        rows = logits[at]  # [R, V]
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
    logits: Tensor,
    targets: Tensor,
    softmax: Tensor,
    of_logp: Tensor | None,
    of_entropy: Tensor | None,
    temperature: float,
) -> None:
    """Replace float32 logits [C, V] by the gradient of the loss with respect to them, in place.

    With p = softmax(logits / T), log-prob l of target t, entropy H, a = dloss/dl and b = dloss/dH, it is
    (a [v = t] - p_v (a + b (log p_v + H))) / T.

    Args:
        softmax: from `_scores`.
        of_logp, of_entropy: a and b, float32 [C]; None for 0.
    """
    if of_logp is None and of_entropy is None:
        logits.zero_()
        return
    if of_logp is None:
        of_logp = torch.zeros_like(targets, dtype=torch.float32)
    for at in _slices(logits):
        entropy, top, total = softmax[:, at, None]
        at_target = of_logp[at, None] / temperature
        rows = logits[at]
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


def _slices(logits: Tensor) -> Iterator[slice]:
    size = max(1, SLICE_BYTES[logits.device.type] // (4 * logits.shape[-1]))
    return (slice(start, start + size) for start in range(0, len(logits), size))


def _head_rows(weight: Tensor) -> int:
    return max(1, HEAD_BYTES // (4 * weight.shape[-1]))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left^T right, [V, D], to `total`, float32."""
    if left.dtype == torch.float32:
        total.addmm_(left.T, right)
        return
    size = _head_rows(total)
    for part, columns in zip(total.split(size), left.split(size, dim=1), strict=True):
        if left.is_cpu:
            part += columns.T.float() @ right.float()
        else:
            part += torch.mm(columns.T, right, out_dtype=torch.float32)
