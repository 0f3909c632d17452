"""`breadth evaluate`: checkpoints, answers per prompt and sampling."""

from dataclasses import dataclass, field

from configs.checks import require


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    checkpoints: list[str] = field(default_factory=list)
    """`name=directory` or `directory` of Hugging Face policies; empty: `policy.path`."""
    answers: int = 128
    ks: list[int] = field(default_factory=lambda: [1, 4, 16, 64, 128])
    temperature: float = 1.0
    output: str = ""
    """Directory of the results; empty: `<run directory>/evaluation`."""

    def __post_init__(self) -> None:
        require(self.answers > 0, "evaluate.answers", "must be positive", self.answers)
        require(self.temperature >= 0.01, "evaluate.temperature", "must be at least 0.01", self.temperature)
        require(
            bool(self.ks) and all(0 < k <= self.answers for k in self.ks),
            "evaluate.ks",
            f"each k must be between 1 and evaluate.answers ({self.answers})",
            list(self.ks),
        )
