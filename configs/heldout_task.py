"""Another task whose held-out prompts are measured beside those of the run's own task."""

from dataclasses import dataclass, field, replace

from configs.checks import require, require_not_negative
from configs.heldout import Decoding, HeldOutSampling
from configs.sampling import SamplingConfig
from configs.sets import known_set, set_names
from configs.task import TaskConfig


@dataclass(frozen=True, kw_only=True)
class HeldOutTaskConfig(TaskConfig):
    """Another task, of which the held-out prompts alone are used. Its answers have the reward of its verifier alone."""

    answers: int = 0
    """Answers per held-out prompt; 0: as many as to those of the run's own task."""
    ks: list[int] = field(default_factory=list)
    """Values of k for Pass@k. Empty: those of the run's own task that are at most `answers`."""
    sampling: HeldOutSampling = field(default_factory=HeldOutSampling)
    """Sampling of the answers. Left out, it is that of the answers to the run's own task. Answers to a known set may
    have as many tokens as it needs, unless `max_new_tokens` is given here."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(self, "answers")
        most = self.answers or max(self.ks, default=1)
        rule = f"each k must be between 1 and answers ({self.answers})" if self.answers else "each k must be above 0"
        require(all(0 < k <= most for k in self.ks), "ks", rule, self.ks)

    def resolved_answers(self, own: int) -> int:
        """Return the answers per prompt, where the run's own task has `own`."""
        return self.answers or own

    def decoding(self, own: HeldOutSampling, training: SamplingConfig) -> Decoding:
        """Return how the answers are sampled, where those of the run's own task are sampled as `own`."""
        found = (own if self.sampling == HeldOutSampling() else self.sampling).resolved(training)
        if self.name in set_names() and not self.sampling.max_new_tokens:
            found = replace(found, max_new_tokens=max(found.max_new_tokens, known_set(self.name).max_new_tokens))
        return found

    def resolved_ks(self, own_answers: int, own_ks: list[int]) -> list[int]:
        """Return the values of k, ascending and with 1, where the run's own task has these."""
        most = self.resolved_answers(own_answers)
        return sorted({1, *(k for k in self.ks or own_ks if k <= most)})
