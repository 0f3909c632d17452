"""One named reference: its initial weights, and when it is updated towards the policy."""

from dataclasses import dataclass, field
from typing import Literal

from configs.checks import require, require_positive


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig:
    """A reference policy, the anchor of a term or of pairs: a teacher, a soup of checkpoints, or a slow copy."""

    path: str = ""
    """Directory of a Hugging Face policy with the same vocabulary, or its name on the Hub; empty: the starting one."""
    soup: dict[str, float] = field(default_factory=dict)
    """Directories and weights that sum to 1: the reference is the weighted average of their parameters (SALSA,
    arXiv:2411.01798). Replaces `path`."""
    reads: Literal["prompt", "feedback"] = "prompt"
    """What it reads before an answer. prompt: the prompt, as the policy; feedback: the prompt with the first other
    right answer of the group and, for a wrong answer, the reason of its verdict (SDPO, arXiv:2601.20802). Where there
    is neither, or no room in the model's positions, the policy's log-probs before the step's first update stand for its
    own. It can be the anchor of terms in the reward wiring alone."""
    update: Literal["fixed", "periodic", "average", "kl"] = "fixed"
    """fixed: never updated; periodic: every `every` steps (TR-DPO, arXiv:2404.09656); average: every `every` steps, to
    the average of the policy's iterates (`iterates`); kl: when the policy has drifted further than `threshold` (RPG,
    arXiv:2505.17508)."""
    every: int = 1
    """periodic, average: steps between two updates."""
    mixing_weight: float = 1.0
    """periodic, kl: size of an update, reference <- mixing_weight * policy + (1 - mixing_weight) * reference. 1 copies
    the policy."""
    iterates: int = 16
    """average: number of iterates over which the average is uniform, the start included. Later updates have the mixing
    weight 1 / iterates: an exponential average over about that many iterates."""
    threshold: float = 0.1
    """kl: mean KL to the reference in nats per token, smoothed over about 10 steps, that triggers an update."""

    def __post_init__(self) -> None:
        if self.soup:
            require(not self.path, "path", "must be empty beside a soup", self.path)
            good = all(weight > 0 for weight in self.soup.values()) and abs(sum(self.soup.values()) - 1) < 1e-6
            require(good, "soup", "must have positive weights that sum to 1", dict(self.soup))
        require_positive(self, "every", "iterates", "threshold")
        require(0 < self.mixing_weight <= 1, "mixing_weight", "must be in (0, 1]", self.mixing_weight)

    @property
    def informed(self) -> bool:
        """Whether it reads feedback."""
        return self.reads == "feedback"

    @property
    def moves(self) -> bool:
        """Whether the reference is ever updated."""
        return self.update != "fixed"
