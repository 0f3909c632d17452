"""Rehearsal: stored answers of the reference policy that divergence terms with `route: rehearse` are trained on."""

from dataclasses import dataclass
from typing import Literal

from configs.checks import require, require_positive


@dataclass(frozen=True, kw_only=True)
class RehearsalConfig:
    """DPH-RL's stored reference answers (arXiv:2509.07430), used when a divergence term has `route: rehearse`."""

    path: str = ""
    """Parquet file written by `breadth presample`. Empty: `breadth train` writes one into the run directory."""
    batch: int = 256
    """Rehearsed answers per step."""
    prompts: int = 4096
    """Number of prompts of the training stream to presample."""
    answers: int = 8
    """Reference answers sampled per prompt, k."""
    threshold: int = 6
    """A prompt is mastered when at least this many of its k answers are correct."""
    explore: Literal["unmastered", "fresh"] = "unmastered"
    """Prompts of the explore route. unmastered: the presampled prompts that were not mastered are explored too; fresh:
    exploration starts after the presampled prompts."""
    keep: Literal["one_fresh", "all_correct", "all"] = "one_fresh"
    """Answers that are stored. one_fresh: one more answer of each mastered prompt, if it is correct: a sample of the
    reference's right answers; all_correct: the correct ones of the k answers of each mastered prompt, more of easier
    prompts; all: the k answers of every prompt, right or wrong. Only these are samples of the reference, on which a
    divergence has its own gradient; on right answers alone it has another one."""

    def __post_init__(self) -> None:
        require_positive(self, "batch", "prompts", "answers")
        rule = f"must be between 1 and answers ({self.answers})"
        require(1 <= self.threshold <= self.answers, "threshold", rule, self.threshold)
        rule = "must be 'fresh' for keep=all, which stores answers to every presampled prompt"
        require(self.keep != "all" or self.explore == "fresh", "explore", rule, self.explore)

    @property
    def right_only(self) -> bool:
        """Whether right answers alone are stored."""
        return self.keep != "all"
