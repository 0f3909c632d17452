"""Sampling: answers per prompt, temperature and length limits."""

from dataclasses import dataclass

from configs.checks import require


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    group_size: int = 16
    """Answers per prompt (G)."""
    temperature: float = 1.0
    """Log-probs everywhere are taken at this temperature."""
    top_p: float = 1.0
    top_k: int = 0
    """0: off."""
    max_prompt_tokens: int = 512
    """A longer prompt is skipped and counted."""
    max_refills: int = 0
    """DAPO's dynamic sampling (arXiv:2503.14476): groups whose rewards are all equal are dropped and replaced by fresh
    prompts, at most this many times groups_per_step in one step; what is left then is used as it is. 0: off."""
    max_new_tokens: int = 32

    def __post_init__(self) -> None:
        require(self.group_size > 0, "sampling.group_size", "must be positive", self.group_size)
        require(self.temperature >= 0.01, "sampling.temperature", "must be at least 0.01", self.temperature)
        require(self.max_prompt_tokens > 0, "sampling.max_prompt_tokens", "must be positive", self.max_prompt_tokens)
        require(self.max_refills >= 0, "sampling.max_refills", "must not be negative", self.max_refills)
        require(self.max_new_tokens > 0, "sampling.max_new_tokens", "must be positive", self.max_new_tokens)
        rule = (
            "truncated sampling biases every importance ratio (the learner's log-probs cover the whole vocabulary) "
            "and no correction here accounts for it; must be {}"
        )
        require(self.top_p == 1.0, "sampling.top_p", rule.format("1.0"), self.top_p)
        require(self.top_k == 0, "sampling.top_k", rule.format("0"), self.top_k)
