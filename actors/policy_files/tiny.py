"""Build a small random model with the architecture of a large one, to try what the architecture does."""

import contextlib
import copy
from typing import Any

import torch

LARGEST = {
    "vocab_size": 32,
    "intermediate_size": 64,
    "ffn_dim": 64,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_hidden_layers": 2,
    "sliding_window": 2,
}
"""Largest values of these settings in a tiny model. The size of a head stays: rotary settings depend on it."""


def tiny_model(model: Any) -> Any:
    """Return a float32 model on the CPU of the class and settings of `model`, with random weights, 4 heads, 32 tokens,
    one layer of each kind, at least 2, and sliding windows of 2 tokens.

    What an architecture does with masks, positions and logits does not depend on its size, so it can be tried without
    the weights of the model, which may be on the meta device. Its logits are so large that a cap would change them.

    Raises:
        ValueError: the settings of the architecture cannot be made smaller.
    """
    config = copy.deepcopy(model.config)
    try:
        _shrink(config.get_text_config())
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            tiny = type(model)._from_config(config, dtype=torch.float32).eval()
            for parameter in tiny.parameters():
                if parameter.dim() > 1:  # by default tokens hardly attend to each other
                    parameter.normal_(std=0.2)
            tiny.get_output_embeddings().weight.mul_(1000)
            tiny(input_ids=torch.tensor([[0, 1]]), use_cache=False)
    except Exception as error:  # whatever an architecture raises where its settings do not fit together
        reason = " ".join(str(error).split())
        rule = "must be of an architecture of which a small model can be made"
        raise ValueError(
            f"policy.path: {rule}, got {type(model).__name__}: {type(error).__name__}: {reason}"
        ) from error
    return tiny


def _shrink(text: Any) -> None:
    """Make the settings of a text model those of a tiny one, in place."""
    heads = getattr(text, "num_attention_heads", None)
    head_width = getattr(text, "head_dim", None) or (text.hidden_size // heads if heads else None)
    kinds = list(dict.fromkeys(getattr(text, "layer_types", None) or []))
    for name, largest in LARGEST.items():
        if isinstance(getattr(text, name, None), int):
            setattr(text, name, min(getattr(text, name), largest))
    if isinstance(getattr(text, "num_key_value_heads", None), int):
        while text.num_attention_heads % text.num_key_value_heads:  # as 4 heads with 3, of a model of 9 heads with 3
            text.num_key_value_heads -= 1
    if heads:
        text.hidden_size = min(text.hidden_size, text.num_attention_heads * head_width)
    if getattr(text, "word_embed_proj_dim", None):
        text.word_embed_proj_dim = text.hidden_size
    if kinds:
        kinds = kinds if len(kinds) > 1 else kinds * text.num_hidden_layers
        with contextlib.suppress(AttributeError):  # where the kinds follow from other settings
            text.layer_types, text.num_hidden_layers = kinds, len(kinds)
    text.pad_token_id = None  # it may lie outside of the small vocabulary
