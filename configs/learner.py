"""The learner as settings: optimizer, schedule, and how a batch meets the model."""

from dataclasses import dataclass
from typing import Literal

from configs.checks import require


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    learning_rate: float = 3e-4
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    frozen_updates: int = 0
    """The policy stays what it is for so many first updates, while its optimizer's moments, a critic and controllers
    already see the rewards; the warm-up and the schedule start after them (WSRL, arXiv:2412.07762)."""
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Decay of the learning rate to 0 at the last step, after the warm-up."""
    max_grad_norm: float = 1.0
    updates_per_batch: int = 1
    """Optimizer updates that share a batch; above 1 the trajectories are dealt into that many parts."""
    token_budget: int = 16_384
    """Padded tokens of one microbatch."""
    logits_chunk: int = 1_024
    """Tokens whose logits exist at a time: memory is this times the vocabulary, whatever the batch."""
    layout: Literal["pad", "pack"] = "pad"
    """How a microbatch meets the model: right-padded rows (CPU), or one row with restarting positions (GPU)."""
    gradient_checkpointing: bool = False
    max_skipped_in_a_row: int = 3
    """Stop the run after this many successive steps with a non-finite loss or gradient."""

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "learner.learning_rate", "must be positive", self.learning_rate)
        require(self.weight_decay >= 0, "learner.weight_decay", "must not be negative", self.weight_decay)
        require(0 <= self.beta1 < 1, "learner.beta1", "must be in [0, 1)", self.beta1)
        require(0 <= self.beta2 < 1, "learner.beta2", "must be in [0, 1)", self.beta2)
        for name in ("frozen_updates", "warmup_steps"):
            require(getattr(self, name) >= 0, f"learner.{name}", "must not be negative", getattr(self, name))
        require(self.max_grad_norm > 0, "learner.max_grad_norm", "must be positive", self.max_grad_norm)
        for name in ("updates_per_batch", "token_budget", "logits_chunk", "max_skipped_in_a_row"):
            require(getattr(self, name) > 0, f"learner.{name}", "must be positive", getattr(self, name))
