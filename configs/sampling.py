"""Sampling: answers per prompt, temperature and length limits."""

from dataclasses import dataclass, field

from configs.checks import LOWEST_TEMPERATURE, require, require_not_negative, require_positive


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the generators sample the answers of a training step."""

    group_size: int = 16
    """Answers per prompt, G. TRL: num_generations; verl: rollout.n."""
    temperature: float = 1.0
    """Sampling temperature. Every log-prob in a run is taken at this temperature."""
    max_prompt_tokens: int = 512
    """Longest prompt in tokens. A longer prompt is skipped and counted. verl: data.max_prompt_length."""
    max_new_tokens: int = 32
    """Longest answer in tokens. TRL: max_completion_length; verl: data.max_response_length."""
    stop: list[str] = field(default_factory=list)
    """Texts that end an answer. The verifier gets the text up to the end of the first one, which is included; every
    sampled token is trained on. TRL: generation_kwargs.stop."""
    max_refills: int = 0
    """Dynamic sampling of DAPO (arXiv:2503.14476): groups whose rewards are all equal are dropped and replaced by fresh
    prompts, at most this many times `groups_per_step` in one step. After that the remaining groups are used as they
    are. 0: off."""

    mixed_with: str = ""
    """Teacher-mixed sampling of MiniLLM (arXiv:2306.08543): `reference` or a name of `references` whose distribution is
    mixed into the policy's at every token of the answers that are trained on; empty: none. The recorded log-probs are
    those of the mixture, so the importance ratio policy / sampler corrects each token. Needs the transformers engine,
    which holds both policies."""
    mixture: float = 0.2
    """mixed_with: share of the reference in the mixture, alpha."""

    def __post_init__(self) -> None:
        require_positive(self, "group_size", "max_prompt_tokens", "max_new_tokens")
        sampled = self.temperature >= LOWEST_TEMPERATURE
        require(sampled, "temperature", f"must be at least {LOWEST_TEMPERATURE}", self.temperature)
        require_not_negative(self, "max_refills")
        require(0 < self.mixture < 1, "mixture", "must be in (0, 1)", self.mixture)
        require(all(self.stop), "stop", "must hold texts that are not empty", list(self.stop))
