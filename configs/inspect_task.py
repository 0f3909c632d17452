"""`breadth inspect-task`: which prompts are inspected, and how."""

from dataclasses import dataclass, field
from typing import Any

from configs.checks import require, require_positive


@dataclass(frozen=True, kw_only=True)
class OtherTaskConfig:
    """Another task set that the train and held-out prompts are compared with."""

    task: str = "dataset"
    """Its task, a name of `tasks/registry.py`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of that task, as in `task.options`. Of a dataset all rows are read, of another task its train stream."""


@dataclass(frozen=True, kw_only=True)
class InspectTaskConfig:
    """`breadth inspect-task`: a report of duplicates, diversity, novelty and contamination of the prompts."""

    prompts: int = 1000
    """Largest number of prompts of the train stream, and of each of `others`. Held-out prompts are
    `task.heldout_prompts`."""
    others: dict[str, OtherTaskConfig] = field(default_factory=dict)
    """Further sets by names of your own, such as `inspect_task.others.gsm8k.options.path=gsm8k.jsonl`."""
    similarity: float = 0.8
    """Jaccard similarity of the token trigrams of two prompts from which they are near-duplicates."""
    dimensions: int = 4
    """Principal components of the hidden states on which diversity and novelty are estimated. More of them distinguish
    more, and bias the estimators more."""
    neighbours: int = 4
    """Diversity and novelty are estimated from the distance of a prompt to this neighbour, k."""
    clip: float = 0.01
    """Contamination: largest contribution of a token to the score of its prompt, a of DC-PDD (arXiv:2409.14781). Where
    the report says that most tokens are clipped, a larger value distinguishes prompts better."""

    def __post_init__(self) -> None:
        require_positive(self, "prompts", "dimensions", "neighbours", "clip")
        require(0 < self.similarity <= 1, "similarity", "must be in (0, 1]", self.similarity)
        taken = [name for name in self.others if name in ("train", "heldout")]
        require(not taken, "others", "must not be named 'train' or 'heldout'", taken)
