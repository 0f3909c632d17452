"""Experience: right answers of earlier steps, trained with new answers to the same prompt (ExGRPO)."""

from dataclasses import dataclass

from configs.checks import require, require_positive


@dataclass(frozen=True, kw_only=True)
class ExperienceConfig:
    """Replay of the run's own right answers (ExGRPO, arXiv:2510.02245).

    A group with experience has `group_size - 1` new answers to a prompt that was answered rightly before, and one of
    those right answers. The policy gradient of its tokens is weighted by w / (w + beta), w = policy / sampler.
    """

    fraction: float = 0.0
    """Fraction of the groups of a step that have experience, rounded down (rho); 0: off."""
    beta: float = 0.1
    """Shape of the weight: tokens that have become unlikely weigh less, and no token more than 1."""
    start: float = 0.35
    """Right answers are stored from the first step on whose fraction of right answers is above this."""
    questions: int = 1024
    """Most prompts with stored answers. The one that was answered longest ago is dropped first."""
    answers: int = 8
    """Most stored answers of a prompt. The oldest is dropped first."""

    def __post_init__(self) -> None:
        require(0 <= self.fraction <= 1, "fraction", "must be between 0 and 1", self.fraction)
        require(0 <= self.start < 1, "start", "must be at least 0 and below 1", self.start)
        require_positive(self, "beta", "questions", "answers")
