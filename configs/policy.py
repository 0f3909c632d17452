"""The policy: its directory, compute dtype and prompt form."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The language model that is trained."""

    path: str = "tasks/base_policies/countdown"
    """Directory of a Hugging Face causal language model with its tokenizer."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of forward passes. Master weights, gradient reductions and optimizer state are always float32."""
    chat_template: bool = False
    """Render each prompt as one user turn of the tokenizer's chat template."""
