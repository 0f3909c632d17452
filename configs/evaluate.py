"""`breadth evaluate`: checkpoints, answers per prompt and sampling temperatures."""

from dataclasses import dataclass, field

from configs.checks import require, require_positive, require_temperatures


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """A Pass@k measurement of one or more policies on the held-out prompts."""

    checkpoints: list[str] = field(default_factory=list)
    """`name=directory` or `directory` of Hugging Face policies; empty: `policy.path`. The first one is the base."""
    answers: int = 128
    """Answers per held-out prompt, n of the unbiased Pass@k estimator."""
    ks: list[int] = field(default_factory=lambda: [1, 4, 16, 64, 128])
    """Values of k for Pass@k, each at most `answers`. Pass@1 is always measured."""
    headline_k: int = 0
    """The k of the report's first figure, Pass@1 against Pass@k, one of `ks`; 0: 16, or the largest of `ks` if 16 is
    not among them."""
    temperatures: list[float] = field(default_factory=lambda: [1.0])
    """Sampling temperatures at which every policy is measured; 0 is greedy decoding. Changes are since the base at the
    first one, and the report's two answers are about the policies at the first one."""
    frontier: list[float] = field(default_factory=lambda: [1.3, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0])
    """Further temperatures at which the base alone is measured: with `temperatures` they are its sharpening frontier.
    Those above 1 show what sampling it hotter gives."""
    output: str = ""
    """Directory of the results; empty: `<run directory>/evaluation`."""

    def __post_init__(self) -> None:
        require_positive(self, "answers")
        require(bool(self.temperatures), "temperatures", "must not be empty", list(self.temperatures))
        require_temperatures(self.temperatures, "temperatures")
        require_temperatures(self.frontier, "frontier")
        known = self.headline_k in (0, 1, *self.ks)
        require(known, "headline_k", f"must be one of ks ({', '.join(map(str, self.ks))}), or 0", self.headline_k)
        within = bool(self.ks) and all(0 < k <= self.answers for k in self.ks)
        require(within, "ks", f"each k must be between 1 and answers ({self.answers})", list(self.ks))
