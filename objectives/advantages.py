"""Advantages: how much better an answer is than the other answers to its prompt."""

from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor

from configs.objective_schema import Advantage

EPSILON = 1e-6
"""Added to the standard deviation, as in the authors' code of GRPO."""


def group_zscore(reward: Tensor) -> Tensor:
    """(r - mean) / (std + 1e-6) over one group [G], std with G - 1; all equal gives 0. GRPO, arXiv:2402.03300."""
    # Equality is asked for, not computed: a rounded mean differs from equal rewards and the division blows that up.
    if len(reward) < 2 or bool((reward == reward[0]).all()):
        return torch.zeros_like(reward)
    return (reward - reward.mean()) / (reward.std() + EPSILON)


def mean_only(reward: Tensor) -> Tensor:
    """r - mean over one group [G]. Dr. GRPO, arXiv:2503.20783."""
    return reward - reward.mean()


def leave_one_out(reward: Tensor) -> Tensor:
    """r_i less the mean of the others over one group [G]; 0 for a group of one. RLOO, arXiv:2402.14740."""
    if len(reward) < 2:
        return torch.zeros_like(reward)
    return reward - (reward.sum() - reward) / (len(reward) - 1)


ADVANTAGES: dict[str, Callable[[Tensor], Tensor]] = {name: globals()[name] for name in get_args(Advantage)}


def advantages(reward: Tensor, group: Tensor, name: Advantage) -> Tensor:
    """Advantage [B] of each trajectory from `reward` [B] and `group` [B].

    A NaN reward (the grader failed) is left out of its group's statistics and gets 0, as does group -1 (rehearsed).
    """
    assert reward.shape == group.shape, f"reward {tuple(reward.shape)} and group {tuple(group.shape)} must align"
    result = torch.zeros_like(reward)
    graded = ~reward.isnan()
    for number in group[group >= 0].unique().tolist():
        members = (group == number) & graded
        if members.any():
            result[members] = ADVANTAGES[name](reward[members])
    return result
