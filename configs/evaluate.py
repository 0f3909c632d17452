"""`breadth evaluate`: checkpoints, answers per prompt and sampling temperature."""

from dataclasses import dataclass, field

from configs.checks import require, require_positive


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """A Pass@k measurement of one or more policies on the held-out prompts."""

    checkpoints: list[str] = field(default_factory=list)
    """`name=directory` or `directory` of Hugging Face policies; empty: `policy.path`. The first one is the base."""
    answers: int = 128
    """Answers per held-out prompt, n of the unbiased Pass@k estimator."""
    ks: list[int] = field(default_factory=lambda: [1, 4, 16, 64, 128])
    """Values of k for Pass@k, each at most `answers`."""
    temperature: float = 1.0
    """Sampling temperature of the evaluation."""
    output: str = ""
    """Directory of the results; empty: `<run directory>/evaluation`."""

    def __post_init__(self) -> None:
        require_positive(self, "answers")
        require(self.temperature >= 0.01, "temperature", "must be at least 0.01", self.temperature)
        within = bool(self.ks) and all(0 < k <= self.answers for k in self.ks)
        require(within, "ks", f"each k must be between 1 and answers ({self.answers})", list(self.ks))
