"""SAFE's critic, arXiv:2602.04651: what a learned value makes of rewards, and what it learns from them.

B trajectories. A value is one number per answer, by several heads at once; where it is read is the policy's matter.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from configs.critic import CriticConfig
from objectives.advantage.estimators import WHITEN_EPSILON
from trajectories.batch import Batch


@dataclass(frozen=True)
class RewardMoments:
    """Mean and variance of all rewards so far, those of parts combined exactly (Chan et al.)."""

    count: float = 1e-4
    """What the mean of 0 and the variance of 1 weigh that it starts with."""
    mean: float = 0.0
    variance: float = 1.0

    def seen(self, reward: Tensor) -> "RewardMoments":
        """After these rewards too; NaN are left out."""
        known = reward[~reward.isnan()].double()
        if not len(known):
            return self
        count = self.count + len(known)
        delta = float(known.mean()) - self.mean
        between = delta**2 * self.count * len(known) / count
        within = self.variance * self.count + float(known.var(correction=0)) * len(known)
        return RewardMoments(count, self.mean + delta * len(known) / count, (within + between) / count)

    def normalised(self, reward: Tensor) -> Tensor:
        """In deviations from the mean."""
        return (reward - self.mean) / (math.sqrt(self.variance) + WHITEN_EPSILON)


def soft_min(values: Tensor, softness: float) -> Tensor:
    """[B] of `values` [B, heads]: -softness log(mean_j exp(-V_j / softness)), between their least and their mean."""
    return softness * (math.log(values.shape[-1]) - torch.logsumexp(-values / softness, dim=-1))


def critic_advantage(batch: Batch, reward: Tensor, moments: RewardMoments) -> tuple[Tensor, Tensor]:
    """Advantage [B] and the values' targets [B] from `reward` [B] (NaN: none) and the moments of all steps before.

    The target is the reward normalised with this step's own already counted; the advantage is target - V_old, whitened
    over the batch's answers as (A - mean) / (deviation + 1e-8), 0 where there is no reward.
    """
    assert batch.value_old is not None, "advantage=critic needs the values from before the first update"
    target = moments.seen(reward).normalised(reward)
    advantage = torch.zeros_like(reward)
    graded = ~reward.isnan()
    left = (target - batch.value_old)[graded]
    if len(left) > 1:
        advantage[graded] = (left - left.mean()) / (left.std() + WHITEN_EPSILON)
    return advantage, target


def value_errors(value: Tensor, old: Tensor, target: Tensor, cfg: CriticConfig) -> Tensor:
    """[B]: (Huber(V, R) + Huber(V_clip, R)) / 2, with V_clip = V_old + clamp(V - V_old, -clip, clip): a sum, so that a
    value beyond the clip still learns by half."""
    clipped = old + (value - old).clamp(-cfg.clip, cfg.clip)
    errors = [huber_loss(v, target, reduction="none", delta=cfg.huber) for v in (value, clipped)]
    return (errors[0] + errors[1]) / 2


def value_loss(values: Tensor | None, batch: Batch, cfg: CriticConfig) -> tuple[Tensor, Tensor, Tensor]:
    """This part's share of the value loss, a mean over the answers of the whole batch, times its coefficient; and the
    values and errors of this part's answers. `values` [B, heads], with gradient."""
    assert values is not None and batch.value_old is not None and batch.value_target is not None, "credit comes first"
    there = batch.trained_lengths("explore") > 0
    value = soft_min(values[there], cfg.softness)
    errors = value_errors(value, batch.value_old[there], batch.value_target[there], cfg)
    return cfg.coefficient * errors.sum() / max(batch.totals["explore"].trajectories, 1), value, errors


def value_metrics(batch: Batch) -> dict[str, float]:
    """Of a whole batch: `value_explained`, 1 - Var(R - V_old) / Var(R); nothing without a critic, or if all R agree."""
    if batch.value_old is None or batch.value_target is None:
        return {}
    graded = ~batch.value_target.isnan()
    target, value = batch.value_target[graded].double(), batch.value_old[graded].double()
    if len(target) < 2 or not float(target.var()):
        return {}
    return {"value_explained": 1 - float((target - value).var() / target.var())}
