"""What the attention of a model allows: several trajectories in one row, end to end or with a shared prefix."""

from typing import Any

import torch
from torch import Tensor

from actors.policy_files.tiny import tiny_model


@torch.no_grad()
def packs(model: Any) -> bool:
    """Return whether a trajectory's hidden states stay the same when another trajectory precedes it in the row."""
    tokens = torch.tensor([[0, 1, 2, 3]], device=model.device)
    packed = model.base_model(input_ids=tokens, position_ids=tokens % 2, use_cache=False).last_hidden_state[0, 2:]
    return _same(packed, model.base_model(input_ids=tokens[:, 2:], use_cache=False).last_hidden_state[0])


def linear_width(model: Any) -> float:
    """Return the width of a row at which attention costs as much as all the rest of a layer (see `shared_rows`).

    0 if trajectories with a shared prefix cannot be in one row. They can if every layer attends to all tokens that a
    mask allows, and nothing else in the model depends on the place in the row.
    """
    config = model.config.get_text_config()
    windows = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    if model.config._attn_implementation != "sdpa" or layers != {"full_attention"} or windows:
        return 0.0
    if not _branches(tiny_model(model)):
        return 0.0
    body = sum(p.numel() for p in model.base_model.parameters()) - model.get_input_embeddings().weight.numel()
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # Per token and layer: 2 operations for each parameter, and 4 for each column and element of the attention heads.
    return 2 * body / config.num_hidden_layers / (4 * config.num_attention_heads * head_width)


@torch.no_grad()
def _branches(model: Any) -> bool:
    """Return whether the model computes the trajectories 0 1 2 and 0 1 3 in the row 0 1 2 3."""
    tokens = torch.tensor([[0, 1, 2, 3]], device=model.device)
    attends = torch.ones(1, 1, 4, 4, dtype=torch.bool, device=model.device).tril()
    attends[..., 3, 2] = False
    body = model.base_model
    try:
        row = body(input_ids=tokens, position_ids=tokens.clamp(max=2), attention_mask=attends, use_cache=False)
    except (RuntimeError, TypeError, ValueError):  # a model that does not take such a mask
        return False
    alone = body(input_ids=tokens[:, [0, 1, 3]], use_cache=False).last_hidden_state[0, 2]
    return _same(row.last_hidden_state[0, 3], alone)


def _same(found: Tensor, expected: Tensor) -> bool:
    """Return whether hidden states are equal up to rounding."""
    return bool((found - expected).norm() < torch.finfo(expected.dtype).eps ** 0.5 * expected.norm())
