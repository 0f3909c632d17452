"""The critic: value heads on the policy, their targets and their loss."""

from dataclasses import dataclass
from typing import Literal

from configs.checks import require_not_negative, require_positive


@dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """SAFE's double soft-min critic (arXiv:2602.04651), used by `objective.advantage=critic`. The head of
    `objective.advantage=flow` has its learning rate and its gradient bound."""

    reads: Literal["answer", "prompt"] = "answer"
    """Hidden state that a value is computed from. answer: that of the answer's last token (SAFE), which depends on the
    answer; prompt: that of the prompt's last token, which does not, so that the value is a baseline."""
    heads: int = 2
    """Number of value heads."""
    softness: float = 0.3
    """Soft minimum over heads: -softness log(mean exp(-V / softness)). Near 0 it is the least value, large the mean."""
    huber: float = 0.5
    """Value error, in standard deviations of the reward, up to which the loss is quadratic."""
    clip: float = 0.2
    """Half of the value loss uses the value clipped to this distance from the value before the step's first update."""
    coefficient: float = 0.5
    """Weight of the value loss. It trains the heads alone; AdamW cancels it unless `max_grad_norm` binds."""
    learning_rate: float = 0.0
    """Constant learning rate of the heads, from the first update on; 0: `learner.learning_rate`."""
    max_grad_norm: float = 0.5
    """Largest norm of the heads' own gradient."""

    def __post_init__(self) -> None:
        require_positive(self, "heads", "softness", "huber", "clip", "coefficient", "max_grad_norm")
        require_not_negative(self, "learning_rate")
