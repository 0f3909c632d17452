"""Attention of sequences that lie end to end in one row, without a mask and without padding.

A token attends to the tokens before it in its own sequence. On a GPU, in bfloat16 or float16, torch's FlashAttention
kernel for sequences of different lengths computes it (`torch.nn.attention.varlen`). Elsewhere each sequence is computed
by itself, which is slow, but gives the same numbers. Without a GPU, the tests cover that path and the inputs of the
kernel, but not the kernel.

Axes: K columns of the row, S sequences, Q query columns of all sequences, N key columns of all sequences.
"""

from collections.abc import Iterator
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "breadth_varlen"
"""Name of this attention in transformers' registry. No function that makes masks is registered under it, so that
transformers makes none."""
KERNEL_DTYPES = (torch.bfloat16, torch.float16)
WIDEST_HEAD = 256
"""Largest size of an attention head that the kernel computes; the size must also be a multiple of 8."""
QUERY_BLOCK = 1024
"""Queries whose mask exists at a time where there is no kernel."""
GQA: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}
"""torch 2.11 takes fewer key heads than query heads without being told."""


class Spans(NamedTuple):
    """The sequences of a row. The queries of a sequence are its last tokens; its keys are all of its tokens."""

    queries: Tensor
    """int32 [S + 1]: where the queries of each sequence begin among the row's columns, and K."""
    keys: Tensor
    """int32 [S + 1]: where the keys of each sequence begin among the N keys, and N."""
    longest_query: int
    longest_key: int
    columns: Tensor | None
    """int64 [N]: the column of each key, where sequences share columns; None: keys are the columns themselves."""


def spans(queries: Tensor, keys: Tensor, columns: Tensor | None = None) -> Spans:
    """Return the spans of sequences with these numbers of queries and keys, int64 [S] each."""
    longest = int(queries.max()), int(keys.max())
    return Spans(_starts(queries), _starts(keys), *longest, columns)


def _starts(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(torch.int32)


def varlen_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    spans: Spans | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Compute causal attention within each sequence; the interface is that of transformers' attention functions.

    The key heads are not repeated where there are fewer of them than query heads.

    Args:
        query, key, value: [1, heads, K, head size].
        sliding_window: number of last tokens that a token attends to, itself included.

    Returns:
        [1, K, heads, head size], and no attention weights.

    Raises:
        ValueError: the layer's attention has a part that the kernel does not compute.
    """
    parts = [name for name in ("s_aux", "softcap", "position_bias") if more.get(name) is not None]
    if parts or value.shape[-1] != query.shape[-1]:
        raise ValueError(f"attention with {parts[0] if parts else 'values of another size'} has no varlen kernel")
    assert spans is not None and attention_mask is None, "this attention takes spans, and no mask"
    assert len(query) == 1 and not dropout, "sequences lie in one row, and nothing is dropped"
    q, k, v = (heads[0].transpose(0, 1) for heads in (query, key, value))  # [K, heads, head size]
    if spans.columns is not None:
        k, v = (heads.index_select(0, spans.columns) for heads in (k, v))
    if not q.is_cpu and q.dtype in KERNEL_DTYPES:
        # The last query is that of the last key (lower-right alignment), also where there are fewer queries than keys.
        window = (-1 if sliding_window is None else sliding_window - 1, 0)
        lengths = (spans.queries, spans.keys, spans.longest_query, spans.longest_key)
        out = varlen_attn(q, k, v, *lengths, scale=scaling, window_size=window, **GQA)
        assert isinstance(out, Tensor)
        return out[None], None
    return _one_by_one(q, k, v, spans, scaling, sliding_window)[None], None


def _one_by_one(
    query: Tensor, key: Tensor, value: Tensor, spans: Spans, scaling: float | None, window: int | None
) -> Tensor:
    """Return the attention of each sequence, [K, heads, head size], computed by itself."""
    parts = []
    sizes = (spans.queries.diff().tolist(), spans.keys.diff().tolist(), spans.keys.diff().tolist())
    sequences = zip(*(part.split(size) for part, size in zip((query, key, value), sizes, strict=True)), strict=True)
    for sequence in sequences:
        q, k, v = (heads.transpose(0, 1)[None] for heads in sequence)
        if q.shape[-2] == k.shape[-2] and (window is None or k.shape[-2] <= window):
            blocks = [scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)]
        else:
            blocks = [
                scaled_dot_product_attention(
                    q[:, :, some], k[:, :, seen], v[:, :, seen], attn_mask=attends, scale=scaling, enable_gqa=True
                )
                for some, seen, attends in _blocks(q.shape[-2], k.shape[-2], window, q.device)
            ]
        parts += [block[0].transpose(0, 1) for block in blocks]
    return torch.cat(parts)


def _blocks(queries: int, keys: int, window: int | None, device: torch.device) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield blocks of a sequence's queries, the keys that they attend to, and the mask, bool [queries, keys]."""
    for start in range(0, queries, QUERY_BLOCK):
        some = slice(start, min(start + QUERY_BLOCK, queries))
        places = torch.arange(some.start, some.stop, device=device)[:, None] + (keys - queries)
        end = some.stop + keys - queries
        seen = slice(0 if window is None else max(0, end - (some.stop - some.start) - window + 1), end)
        at = torch.arange(seen.start, seen.stop, device=device)
        attends = at <= places
        yield some, seen, attends if window is None else attends & (places - at < window)


AttentionInterface.register(NAME, varlen_attention)
