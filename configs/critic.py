"""A critic as settings: value heads on the policy, what they learn, and how."""

from dataclasses import dataclass
from typing import Literal

from configs.checks import require


@dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """SAFE's double soft-min critic (arXiv:2602.04651), used by objective.advantage=critic."""

    reads: Literal["answer", "prompt"] = "answer"
    """The hidden state a value is read from: that of an answer's last token (SAFE), which has seen the answer, or that
    of the last token before it, which has not."""
    heads: int = 2
    softness: float = 0.3
    """The value is -softness log(mean over heads of exp(-V / softness)): near 0 the least of them, large their mean."""
    huber: float = 0.5
    """Error, in deviations of the reward, up to which the value loss is a square."""
    clip: float = 0.2
    """Half of the value loss sees the value no farther than this from where it was before the step's first update."""
    coefficient: float = 0.5
    """Of the value loss, which reaches the heads alone: AdamW divides it out again, unless max_grad_norm binds."""
    learning_rate: float = 0.0
    """Of the heads, from the first update on and constant; 0: learner.learning_rate."""
    max_grad_norm: float = 0.5
    """Bound on the norm of the heads' own gradient."""

    def __post_init__(self) -> None:
        for name in ("heads", "softness", "huber", "clip", "coefficient", "max_grad_norm"):
            require(getattr(self, name) > 0, f"objective.critic.{name}", "must be positive", getattr(self, name))
        rule = "must not be negative"
        require(self.learning_rate >= 0, "objective.critic.learning_rate", rule, self.learning_rate)
