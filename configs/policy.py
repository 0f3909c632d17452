"""The policy: its directory, compute dtype and prompt form."""

from dataclasses import dataclass, field
from typing import Any, Literal

from configs.checks import require


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The language model that is trained."""

    path: str = "tasks/base_policies/countdown"
    """Directory of a Hugging Face causal language model with its tokenizer, or its name on the Hugging Face Hub,
    `org/name[@revision]`."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of forward passes. Master weights, gradient reductions and optimizer state are always float32."""
    chat_template: bool = False
    """Render each prompt with the tokenizer's chat template: a text as one user turn, a list of messages as it is."""
    system_prompt: str = ""
    """System message of every prompt, in place of a prompt's own. Empty: a prompt has a system message only if its row
    holds one."""
    template_arguments: dict[str, Any] = field(default_factory=dict)
    """Variables of the chat template, for example {enable_thinking: false}."""

    def __post_init__(self) -> None:
        for name in ("system_prompt", "template_arguments"):
            value = getattr(self, name)
            require(
                self.chat_template or not value, name, "must be left out unless policy.chat_template is true", value
            )
