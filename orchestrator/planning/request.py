"""The words of `breadth plan` that are no settings of a run: the hardware, and how long prompts and answers are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from configs.checks import require
from orchestrator.simulation.hardware import gpu_named


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a plan is for, beside the settings of the run."""

    gpus: int = 8
    """Number of GPUs, 8 in a node."""
    gpu: str = "h100"
    """Name of the GPU: a100-40, a100-80, h100, h200, l40s."""
    prompt_tokens: int = 0
    """Mean tokens of a prompt; 0: a quarter of sampling.max_prompt_tokens."""
    answer_tokens: float = 0.0
    """Mean tokens of an answer; 0: a third of sampling.max_new_tokens."""
    lengths: str = ""
    """Directory of a run whose answers have the expected lengths, in place of answer_tokens."""

    def __post_init__(self) -> None:
        gpu_named(self.gpu)
        usable = self.gpus in (1, 2, 4) or (self.gpus > 0 and self.gpus % 8 == 0)
        require(usable, "gpus", "must be 1, 2, 4, or a multiple of 8: whole nodes", self.gpus)
        require(self.prompt_tokens >= 0, "prompt_tokens", "must not be negative", self.prompt_tokens)
        require(self.answer_tokens >= 0, "answer_tokens", "must not be negative", self.answer_tokens)


def split_words(words: Sequence[str]) -> tuple[Request, list[str]]:
    """Return the request in the words of a command line, and the other words, which are settings.

    Raises:
        ValueError: a value is no number, or out of range; starts with the word's name.
    """
    kinds: dict[str, type[int] | type[float] | type[str]] = {
        "gpus": int,
        "gpu": str,
        "prompt_tokens": int,
        "answer_tokens": float,
        "lengths": str,
    }
    given: dict[str, Any] = {}
    settings = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in kinds:
            settings.append(word)
            continue
        try:
            given[key] = kinds[key](value)
        except ValueError:
            raise ValueError(f"{key}: must be a number, got {value!r}") from None
    return Request(**given), settings
