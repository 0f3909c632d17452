"""Sampling of held-out answers, which may differ from that of training: greedy, truncated, or longer."""

from dataclasses import asdict, dataclass
from typing import Any

from configs.checks import require, require_not_negative, require_temperatures
from configs.sampling import SamplingConfig


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How the answers of one measurement are sampled, resolved. An engine applies the truncations in the order min_p,
    top_k, top_p, to the distribution at the temperature."""

    temperature: float
    """0: greedy decoding."""
    max_new_tokens: int
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    @property
    def truncated(self) -> bool:
        """Whether some tokens are never sampled."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0

    def words(self) -> str:
        """Return the settings in words: `temperature 0.6, top_p 0.95, at most 64 tokens`."""
        return f"temperature {self.temperature:g}, {self.limits()}"

    def limits(self) -> str:
        """Return the settings besides the temperature in words."""
        named = {"top_p": (self.top_p, 1.0), "top_k": (self.top_k, 0), "min_p": (self.min_p, 0.0)}
        given = [f"{name} {value:g}" for name, (value, off) in named.items() if value != off]
        return ", ".join([*given, f"at most {self.max_new_tokens} tokens"])

    def plain(self) -> dict[str, Any]:
        """Return the settings as JSON data."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class HeldOutSampling:
    """Sampling of held-out answers where it differs from that of training."""

    temperature: float | None = None
    """Sampling temperature; 0: greedy decoding; null: that of training, `sampling.temperature`."""
    top_p: float = 1.0
    """Sample among the most likely tokens whose probabilities sum to at least this; 1: all tokens."""
    top_k: int = 0
    """Sample among this many most likely tokens; 0: all tokens."""
    min_p: float = 0.0
    """Sample among the tokens with at least this times the probability of the most likely one; 0: all tokens."""
    max_new_tokens: int = 0
    """Longest answer in tokens; 0: that of training, `sampling.max_new_tokens`."""

    def __post_init__(self) -> None:
        if self.temperature is not None:
            require_temperatures([self.temperature], "temperature")
        require(0 < self.top_p <= 1, "top_p", "must be in (0, 1]", self.top_p)
        require(0 <= self.min_p < 1, "min_p", "must be in [0, 1)", self.min_p)
        require_not_negative(self, "top_k", "max_new_tokens")

    def resolved(self, training: SamplingConfig) -> Decoding:
        """Return the complete settings, with those of training where nothing else is given."""
        return Decoding(
            temperature=training.temperature if self.temperature is None else self.temperature,
            max_new_tokens=self.max_new_tokens or training.max_new_tokens,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
        )
