"""Flow balance: the loss of FlowRL, with which answers become as frequent as their reward says."""

from dataclasses import dataclass

from configs.checks import require, require_positive


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Parameters of advantage=flow (FlowRL, arXiv:2509.15207), whose loss of an answer of T tokens is
    w (log Z + mean_t log pi - beta r - mean_t log reference)^2, r the z-score of its reward in its group.

    log Z is a value head on the hidden state of the prompt's last token, with the learning rate and the gradient bound
    of `objective.critic`. The target of answers of one length T is reference * exp(T beta r) / Z.
    """

    beta: float = 15.0
    """Weight of the reward, in nats per token and standard deviation of the group."""
    clip: float = 0.2
    """w is pi / old policy of the whole answer, clipped to [1 - clip, 1 + clip] and detached."""

    def __post_init__(self) -> None:
        require_positive(self, "beta")
        require(0 < self.clip <= 1, "clip", "must be in (0, 1]", self.clip)
