"""Attention of one new token per row, without a copy of the keys and values for every query head.

Several query heads may share one key-value head. Where there is a mask, transformers repeats keys and values for each
of them. With one new token per row, they can instead be the queries of one head, as all of them have the same mask.

Axes: R rows, Q query heads, H key-value heads, W columns of the cache, D head size.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_grouped"


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' `sdpa` does.

    Args:
        query: [R, Q, T, D]. key, value: [R, H, W, D]. attention_mask: [R, 1, T, W].

    Returns:
        [R, T, Q, D], and None for the weights.
    """
    rows, heads, tokens, size = query.shape
    if tokens > 1 or heads == key.shape[1] or options.get("position_bias") is not None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
    together = query.reshape(rows, key.shape[1], -1, size)
    attended = torch.nn.functional.scaled_dot_product_attention(
        together, key, value, attn_mask=attention_mask, scale=scaling
    )
    return attended.reshape(rows, 1, heads, size), None


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def use_grouped_attention(model: Any) -> None:
    """Set it in a transformers model, if the model has `sdpa` attention."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)
