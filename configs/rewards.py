"""Several rewards of one answer, and how they are combined."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from configs.checks import require

ANSWER_REWARD = "answer"
"""Name of the reward that the problem's own verifier gives."""
Combination = Literal["weighted_sum", "weighted_advantages", "whitened_advantages"]
BY_REWARD = (
    "group_zscore",
    "mean_only",
    "leave_one_out",
    "global_whiten",
    "group_mean_global_whiten",
    "mean_normalised",
)
"""Advantages that can be computed for each of several rewards: those that are functions of one reward of a group."""
MEAN_ZERO = ("group_zscore", "mean_only", "leave_one_out")
"""Advantages whose mean over every group is 0."""


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """One of several rewards of an answer.

    `objective.rewards.answer` is the reward of the problem's own verifier; without settings it has weight 1. Its status
    alone decides what counts as right in Pass@k. The others have a verifier each, or are parts of the same verdict.
    """

    verifier: str = ""
    """Verifier of this reward, as in `task.verifier`. It gets the answer and the problem."""
    part: str = ""
    """Name of a part of the verdict of the problem's own verifier, instead of a verifier: one call gives all."""
    weight: float = 1.0
    """Weight of this reward in the sum. A gate may have weight 0."""
    gate: bool = False
    """An answer with less than 1 here gets 0 for every reward, such as a format that must be kept."""

    def __post_init__(self) -> None:
        require(math.isfinite(self.weight), "weight", "must be finite", self.weight)
        rule = "must be empty beside a verifier, which gives this reward already"
        require(not (self.part and self.verifier), "part", rule, self.part)
        require(self.weight != 0 or self.gate, "weight", "must not be 0, except for a gate", self.weight)


def check_rewards(rewards: Mapping[str, RewardConfig]) -> None:
    """Raise ValueError unless each reward but `answer` has a verifier or is a part of a verdict, and it has neither."""
    for name, reward in rewards.items():
        path = f"rewards.{name}"
        if name == ANSWER_REWARD:
            require(not reward.verifier, f"{path}.verifier", "must be set as task.verifier", reward.verifier)
            require(not reward.part, f"{path}.part", "must be empty: it is the reward of the verdict", reward.part)
        else:
            rule = "must name a verifier, unless `part` names a part of the verdict"
            require(bool(reward.verifier or reward.part), f"{path}.verifier", rule, reward.verifier)


def with_answer(rewards: Mapping[str, RewardConfig]) -> dict[str, RewardConfig]:
    """Return all rewards by name, that of the problem's own verifier among them."""
    return {ANSWER_REWARD: RewardConfig(), **rewards}
