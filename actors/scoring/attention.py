"""What the attention of a model allows: sequences end to end in one row, or with a shared prefix, and at which cost."""

import math
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from actors.policy_files.tiny import tiny_model
from actors.scoring.varlen import KERNEL_DTYPES, NAME, WIDEST_HEAD, spans

OLDEST_GPU = (8, 0)
"""Compute capability of the oldest GPUs that have the FlashAttention kernel."""

REPEATED = "sdpa_repeated"
"""Name of `repeated_attention` in transformers' registry."""


def resolved(layout: str, model: Any, *, device: str, dtype: str, elsewhere: bool = False) -> str:
    """Return the layout that "auto" stands for: "varlen" where the model, the device and the dtype have its kernel,
    else "pad". Return any other layout if the model can be computed in it.

    Args:
        device, dtype: of the forward pass.
        elsewhere: whether it runs in another process, whose GPU is taken to have the kernel. To ask for this process's
            GPU makes a CUDA context, which would stay on it.

    Raises:
        ValueError: names the setting and the reason.
    """
    kind = type(model).__name__
    if layout == "auto":
        fits = device == "cuda" and getattr(torch, dtype) in KERNEL_DTYPES
        fits = fits and (elsewhere or _gpu_has_kernel())
        fits = fits and _head_width(model.config.get_text_config()) in range(8, WIDEST_HEAD + 1, 8)
        return "varlen" if fits and not varlen_refusal(model) else "pad"
    if layout == "varlen" and (reason := varlen_refusal(model)):
        raise ValueError(f"learner.layout: must be 'pad' or 'pack' for {kind}, {reason}, got 'varlen'")
    if layout == "pack" and not packs(model):
        raise ValueError(
            f"learner.layout: must be 'pad' for {kind}, which ignores where packed positions restart, got 'pack'"
        )
    return layout


def _gpu_has_kernel() -> bool:
    """Return whether the GPU of this process has the kernel, if there is one."""
    return not torch.cuda.is_available() or torch.cuda.get_device_capability() >= OLDEST_GPU


def _head_width(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def repeated_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attend as transformers' `sdpa` does, with a copy of the key heads for each query head.

    In float32 a GPU has one kernel that does not store all pairs of tokens, torch's memory-efficient one, and it takes
    as many key heads as query heads (`check_batch_size_and_num_heads_dense<false>` in ATen's sdp_utils.cpp).
    """
    if attention_mask is None:  # with a mask, transformers repeats them itself
        key, value = (repeat_kv(heads, query.shape[1] // heads.shape[1]) for heads in (key, value))
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]


AttentionInterface.register(REPEATED, repeated_attention)
AttentionMaskInterface.register(REPEATED, sdpa_mask)


def undivided(config: Any, parts: int) -> str:
    """Return the rule that the attention heads of a model break if they are divided among so many ranks; empty if they
    can be. Ranks beyond the number of key heads have copies of them.

    Args:
        config: of the model, from its config.json.
    """
    text = config.get_text_config()
    heads = text.num_attention_heads
    keys = getattr(text, "num_key_value_heads", None) or heads
    if heads % parts == 0 and (keys % parts == 0 or parts % keys == 0):
        return ""
    return f"must divide the attention heads ({heads}), and divide or be a multiple of the key heads ({keys})"


def undivided_layers(config: Any, parts: int) -> str:
    """Return the rule that a model breaks if vLLM divides its layers among so many ranks: that of `undivided`, or that
    of the widths of its feed-forward layers; empty if they can be divided."""
    text = config.get_text_config()
    experts = ("moe_intermediate_size", "shared_expert_intermediate_size")
    names = experts if getattr(text, experts[0], None) else ("intermediate_size",)
    widths = {name: getattr(text, name, None) for name in names}
    odd = [f"{name} ({width:,})" for name, width in widths.items() if isinstance(width, int) and width % parts]
    return undivided(config, parts) or (f"must divide {' and '.join(odd)}" if odd else "")


def window(model: Any) -> int | None:
    """Return the number of last tokens that a token attends to in the layers with a sliding window; None: no layer has
    one."""
    config = model.config.get_text_config()
    size = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    slides = "sliding_attention" in kinds if kinds else getattr(config, "use_sliding_window", True)
    return int(size) if size is not None and slides else None


@torch.no_grad()
def packs(model: Any) -> bool:
    """Return whether a trajectory's hidden states stay the same when another trajectory precedes it in the row."""
    body, tokens = tiny_model(model).base_model, torch.tensor([[0, 1, 2, 3]])
    packed = body(input_ids=tokens, position_ids=tokens % 2, use_cache=False).last_hidden_state[0, 2:]
    return _same(packed, body(input_ids=tokens[:, 2:], use_cache=False).last_hidden_state[0])


@torch.no_grad()
def varlen_refusal(model: Any) -> str:
    """Return why the model cannot be computed with `varlen_attention`; empty if it can."""
    others = set(_kinds(model)) - {"full_attention", "sliding_attention"}
    if others:
        return f"which has layers of the type {min(others)}"
    small = tiny_model(model)
    tokens = torch.arange(8)[None]
    alone = [small.base_model(input_ids=part, use_cache=False).last_hidden_state[0] for part in tokens.split([3, 5], 1)]
    if small.config._attn_implementation not in ("sdpa", REPEATED) or not small._can_set_attn_implementation():
        return "which does not take its attention from transformers' registry"
    small.set_attn_implementation(NAME)
    lengths = torch.tensor([3, 5])
    place = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])
    try:
        row = small.base_model(
            input_ids=tokens, position_ids=place, spans=spans(lengths, lengths), use_cache=False
        ).last_hidden_state[0]
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        return f"whose layers do not take the sequences of a row ({error})"
    return "" if _same(row, torch.cat(alone)) else "whose attention is more than causal attention within a sequence"


def linear_width(model: Any, layout: str, *, device: str, dtype: str) -> float:
    """Return the width of a row at which attention costs as much as all the rest of a layer (see `shared_rows`).

    With layout "varlen" it is infinite: trajectories that share a prefix share its columns, and no pair of columns is
    computed that one of them would not compute alone.

    With layout "pad" a shared row needs a mask. The width is 0, so that no row is shared, if the mask cannot express
    what the model computes, or costs more than sharing saves. The model must attend to all tokens that a mask allows in
    every layer, and nothing else in it may depend on the place in the row. On a GPU in bfloat16 or float16 a mask rules
    out the FlashAttention kernel: all pairs of columns are computed, twice as many, by a slower kernel with repeated
    key heads.

    Args:
        layout: as from `resolved`.
        device, dtype: of the forward pass.
    """
    if layout == "varlen":
        return math.inf
    config = model.config.get_text_config()
    if layout != "pad" or (device == "cuda" and getattr(torch, dtype) in KERNEL_DTYPES):
        return 0.0
    if model.config._attn_implementation != "sdpa" or set(_kinds(model)) != {"full_attention"} or not _branches(model):
        return 0.0
    body = sum(p.numel() for p in model.base_model.parameters()) - model.get_input_embeddings().weight.numel()
    # Per token and layer: 2 operations for each parameter, and 4 for each column and element of the attention heads.
    attention = 4 * config.num_attention_heads * _head_width(config)
    return 2 * body / config.num_hidden_layers / attention


def _kinds(model: Any) -> list[str]:
    """Return the attention types of a model's layers."""
    config = model.config.get_text_config()
    slides = "sliding_attention" if window(model) is not None else "full_attention"
    return list(getattr(config, "layer_types", None) or [slides])


@torch.no_grad()
def _branches(model: Any) -> bool:
    """Return whether the model computes the trajectories 0 1 2 and 0 1 3 in the row 0 1 2 3."""
    tokens = torch.tensor([[0, 1, 2, 3]])
    attends = torch.ones(1, 1, 4, 4, dtype=torch.bool).tril()
    attends[..., 3, 2] = False
    body = tiny_model(model).base_model
    try:
        row = body(input_ids=tokens, position_ids=tokens.clamp(max=2), attention_mask=attends, use_cache=False)
    except (RuntimeError, TypeError, ValueError):  # a model that does not take such a mask
        return False
    alone = body(input_ids=tokens[:, [0, 1, 3]], use_cache=False).last_hidden_state[0, 2]
    return _same(row.last_hidden_state[0, 3], alone)


def _same(found: Tensor, expected: Tensor) -> bool:
    """Return whether hidden states are equal up to rounding."""
    return bool((found - expected).norm() < torch.finfo(expected.dtype).eps ** 0.5 * expected.norm())
