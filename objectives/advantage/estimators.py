"""Advantage estimators: functions of the rewards [G] of one group, or of the whole batch [B]."""

from collections.abc import Callable

import torch
from torch import Tensor

from configs.overlong import OverlongConfig
from trajectories.batch import Batch, groups_of
from trajectories.trajectory import EQUAL_REWARDS

EPSILON = 1e-6
"""Added to the standard deviation, as in the official code of GRPO."""


def group_zscore(reward: Tensor) -> Tensor:
    """Return (r - mean) / (std + 1e-6) over one group [G], std with G - 1; 0 if all are equal up to rounding. GRPO,
    arXiv:2402.03300."""
    # Division by a tiny standard deviation would turn a rounding error into an advantage.
    if len(reward) < 2 or reward.max() - reward.min() <= EQUAL_REWARDS:
        return torch.zeros_like(reward)
    return (reward - reward.mean()) / (reward.std() + EPSILON)


def mean_only(reward: Tensor) -> Tensor:
    """Return r - mean over one group [G]. Source: Dr. GRPO, arXiv:2503.20783."""
    return reward - reward.mean()


def leave_one_out(reward: Tensor) -> Tensor:
    """Return r_i minus the mean of the others in one group [G]; 0 for a group of one. Source: RLOO,
    arXiv:2402.14740."""
    if len(reward) < 2:
        return torch.zeros_like(reward)
    return reward - (reward.sum() - reward) / (len(reward) - 1)


def global_whiten(reward: Tensor) -> Tensor:
    """Return r itself; REINFORCE++ (arXiv:2501.03262) whitens over all tokens of the batch afterwards (`whiten`)."""
    return reward


def group_mean_global_whiten(reward: Tensor) -> Tensor:
    """Return r - mean over one group [G], whitened over the batch afterwards: REINFORCE++-baseline,
    arXiv:2501.03262."""
    return mean_only(reward)


def best_of_n(reward: Tensor) -> Tensor:
    """Return 1 / (number of best answers) on the best answers of one group [G], 0 on the others.

    It is 0 for all if none has a positive reward. Source: SuperHF, arXiv:2310.16763.
    """
    best = (reward == reward.max()) & (reward > 0)
    return best / best.sum().clamp(min=1)


def mean_normalised(reward: Tensor) -> Tensor:
    """Return (r - mean) / mean over one group [G]; 0 unless the mean is positive. Source: MaxRL, arXiv:2602.02710."""
    mean = reward.mean()
    return (reward - mean) / mean if mean > 0 else torch.zeros_like(reward)


def none(reward: Tensor) -> Tensor:
    """Return 0 for every answer [G]: only divergence terms are trained on, as in pure distillation."""
    return torch.zeros_like(reward)


PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    function.__name__: function
    for function in (
        group_zscore,
        mean_only,
        leave_one_out,
        global_whiten,
        group_mean_global_whiten,
        best_of_n,
        mean_normalised,
        none,
    )
}
"""The estimators that need the rewards of a group and nothing else."""
WHITEN_EPSILON = 1e-8
DEVIATION_EPSILON = 1e-4


def whiten(advantage: Tensor, tokens: Tensor) -> Tensor:
    """Return (A - mean) / sqrt(var + 1e-8) over the chosen `tokens` [N] of the whole batch, 0 elsewhere; var with M
    - 1."""
    result = torch.zeros_like(advantage)
    chosen = advantage[tokens]
    if len(chosen) > 1:
        result[tokens] = (chosen - chosen.mean()) / (chosen.var() + WHITEN_EPSILON).sqrt()
    return result


def explored_and_graded(reward: Tensor, group: Tensor) -> Tensor:
    """Return which answers have a reward and a group, bool [B]. Args: as for `by_group`."""
    return (group >= 0) & ~reward.isnan()


def over_deviation(advantage: Tensor, graded: Tensor) -> Tensor:
    """Return A / (std + 1e-4) [B], std over the `graded` answers, bool [B], of the whole batch, with M - 1.

    The mean is 0, as that of every group is. Source: GDPO, arXiv:2601.05242, whose epsilon is that of its code.
    """
    return advantage / (advantage[graded].std() + DEVIATION_EPSILON) if graded.sum() > 1 else advantage


def overlong_penalty(lengths: Tensor, cfg: OverlongConfig) -> Tensor:
    """Return a penalty [B] that falls from 0 to -`penalty` over the last tokens before the limit. DAPO, equation 13."""
    if not cfg.limit:
        return torch.zeros(lengths.shape)
    cache = cfg.fraction * cfg.limit
    return cfg.penalty * ((cfg.limit - cache - lengths) / cache).clamp(-1, 0)


def shaped_reward(batch: Batch, cfg: OverlongConfig) -> Tensor:
    """Return the reward of each answer plus its overlong penalty [B]; NaN where there is no reward."""
    return batch.reward + overlong_penalty(batch.generated, cfg)


def by_group(reward: Tensor, group: Tensor, estimate: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the advantage of each trajectory [B]: `estimate` of the rewards [G] of its group.

    A NaN reward (the grader failed) is left out of its group's statistics and gets 0, as do stored answers (group -1).

    Args: reward: float32 [B]; group: int64 [B].
    """
    assert reward.shape == group.shape, f"reward {tuple(reward.shape)} and group {tuple(group.shape)} must align"
    result = torch.zeros_like(reward)
    graded = ~reward.isnan()
    for of_group in groups_of(group):
        members = of_group[graded[of_group]]
        if len(members):
            result[members] = estimate(reward[members])
    return result


def best_answers(reward: Tensor, group: Tensor) -> Tensor:
    """Return (answers / groups) / (number of best answers of the group) on the best answers, 0 on the others [B].

    A mean over answers with these weights is the mean over groups, of any size, of the mean over the group's best
    answers: with ratio=none, of their cross entropy. Args: as for `by_group`.
    """
    graded = explored_and_graded(reward, group)
    return by_group(reward, group, best_of_n) * (graded.sum() / max(1, len(group[graded].unique())))
