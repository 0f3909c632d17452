"""LoRA: train low-rank adapters of the linear layers instead of the policy's weights."""

from dataclasses import dataclass, field
from typing import Literal

from configs.checks import require, require_not_negative, require_positive

ALL_LINEAR = "all-linear"
NEEDS_PEFT = "must be 0 where peft is not installed: pip install 'peft>=0.21,<0.22'"


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters, computed by peft: y = W x + s B A x, where W is frozen and A and B are trained
    (arXiv:2106.09685). B starts at 0, so that the first policy is that of `policy.path`.

    The policy's weights are held in `policy.dtype`, divided among the learner ranks, without gradients, moments and
    float32 copies. `learner.learning_rate` should be about ten times that of training all weights.
    """

    r: int = 0
    """Rank of the adapters: rows of A and columns of B. 0: all weights are trained, without adapters."""
    alpha: int = 32
    """Scale of the adapters: s = alpha / r, or alpha / sqrt(r) with use_rslora."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(r) (arXiv:2312.03732), so that updates do not shrink as r grows."""
    target_modules: list[str] = field(default_factory=lambda: [ALL_LINEAR])
    """Last parts of the names of the layers with adapters, for example [q_proj, v_proj]. all-linear: all linear layers
    but the LM head, which is never adapted."""
    publish: Literal["auto", "adapter", "merged"] = "auto"
    """What the generators get. adapter: A and B, through host memory, whatever `generator.transfer`; vLLM computes with
    them as the learner does. merged: the weights W + s B A in `policy.dtype`, by `generator.transfer`; in bfloat16 a
    part of an update smaller than the last bit of W is lost. auto: adapter with vLLM, merged with the transformers
    engine, which has no adapters."""

    def __post_init__(self) -> None:
        require_not_negative(self, "r")
        require_positive(self, "alpha")
        given = bool(self.target_modules) and all(self.target_modules)
        require(given, "target_modules", "must name at least one layer", self.target_modules)
        alone = ALL_LINEAR not in self.target_modules or len(self.target_modules) == 1
        require(alone, "target_modules", f"must not name others besides {ALL_LINEAR}", self.target_modules)
