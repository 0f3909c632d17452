"""Sizes of a language model that decide what it costs, read from its config.json without weights or torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.checks import require

WEIGHT_BYTES = 2
"""Bytes of one parameter or key-value in bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Sizes of a dense decoder with grouped-query attention and a gated MLP (Llama, Qwen2, Qwen3, Mistral)."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    tied: bool
    """Whether the LM head is the embedding."""

    @property
    def layer(self) -> int:
        """Parameters of one decoder layer, without biases and norms (below 0.1 %)."""
        attention = self.hidden * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return self.layers * self.layer + self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def multiplied(self) -> int:
        """Parameters that take part in a matrix product for every token: all but the input embedding."""
        return self.parameters - (0 if self.tied else self.vocabulary * self.hidden)

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values of one token in bfloat16."""
        return 2 * WEIGHT_BYTES * self.layers * self.kv_heads * self.head_size

    def attention_flops(self, length: float) -> float:
        """Return the FLOPs of causal attention over one sequence of `length` tokens, forward."""
        return 2.0 * self.layers * self.heads * self.head_size * length**2


def read_shapes(folder: str) -> Shapes:
    """Return the sizes of the policy in a folder.

    Raises:
        ValueError: there is no config.json, or it is not one of such a model; names `policy.path`.
    """
    file = Path(folder) / "config.json"
    require(file.is_file(), "policy.path", "must be a directory with the config.json of a language model", folder)
    given: dict[str, Any] = json.loads(file.read_text())
    given = given.get("text_config", given)
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    missing = [key for key in needed if not isinstance(given.get(key), int)]
    rule = f"must have a config.json with {', '.join(needed)}"
    require(not missing, "policy.path", rule, f"{file} without {', '.join(missing)}")
    heads = given["num_attention_heads"]
    return Shapes(
        hidden=given["hidden_size"],
        layers=given["num_hidden_layers"],
        heads=heads,
        kv_heads=given.get("num_key_value_heads") or heads,
        head_size=given.get("head_dim") or given["hidden_size"] // heads,
        intermediate=given["intermediate_size"],
        vocabulary=given["vocab_size"],
        tied=bool(given.get("tie_word_embeddings", False)),
    )
