"""Rehearsal: which stored answers of the reference are trained on."""

from dataclasses import dataclass
from typing import Literal

from configs.checks import require


@dataclass(frozen=True, kw_only=True)
class RehearsalConfig:
    """DPH-RL's stored reference answers (arXiv:2509.07430); used when the divergence samples from rehearsal."""

    path: str = ""
    """Parquet file made by `breadth presample`; empty: `breadth train` makes one in its run directory."""
    batch: int = 256
    """Rehearsed answers per step."""
    prompts: int = 4096
    """Prompts of the train stream to presample."""
    answers: int = 8
    """Reference answers per prompt (k)."""
    threshold: int = 6
    """A prompt is mastered when at least this many of the k answers are correct."""
    explore: Literal["unmastered", "fresh"] = "unmastered"
    """unmastered: the presampled prompts that were not mastered are explored too; fresh: exploring starts behind the
    presampled prompts."""
    keep: Literal["one_fresh", "all_correct"] = "one_fresh"
    """one_fresh: draw one more answer of a mastered prompt and keep it if correct (unbiased); all_correct: keep the
    correct ones among the k."""

    def __post_init__(self) -> None:
        require(self.batch > 0, "rehearsal.batch", "must be positive", self.batch)
        require(self.prompts > 0, "rehearsal.prompts", "must be positive", self.prompts)
        require(self.answers > 0, "rehearsal.answers", "must be positive", self.answers)
        require(
            1 <= self.threshold <= self.answers,
            "rehearsal.threshold",
            f"must be between 1 and rehearsal.answers ({self.answers})",
            self.threshold,
        )
