"""Compute advantages from a critic's values, and the critic's loss (SAFE, arXiv:2602.04651).

B trajectories. A value is one number per answer and head; the policy decides from which hidden state it is computed.
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
    """Running mean and variance of all rewards so far, combined exactly over steps (Chan et al.)."""

    count: float = 1e-4
    """Number of rewards seen; the initial value is the weight of the initial mean and variance."""
    mean: float = 0.0
    variance: float = 1.0

    def seen(self, reward: Tensor) -> "RewardMoments":
        """Return the moments including these rewards [B]; NaN are left out."""
        known = reward[~reward.isnan()].double()
        if not len(known):
            return self
        count = self.count + len(known)
        delta = float(known.mean()) - self.mean
        between = delta**2 * self.count * len(known) / count
        within = self.variance * self.count + float(known.var(correction=0)) * len(known)
        return RewardMoments(count, self.mean + delta * len(known) / count, (within + between) / count)

    def normalised(self, reward: Tensor) -> Tensor:
        """Return (r - mean) / (std + 1e-8) [B]."""
        return (reward - self.mean) / (math.sqrt(self.variance) + WHITEN_EPSILON)


def soft_min(values: Tensor, softness: float) -> Tensor:
    """Return -softness log(mean_j exp(-V_j / softness)) [B] of `values` [B, heads]: between their minimum and their
    mean."""
    return softness * (math.log(values.shape[-1]) - torch.logsumexp(-values / softness, dim=-1))


def critic_advantage(batch: Batch, reward: Tensor, moments: RewardMoments) -> tuple[Tensor, Tensor]:
    """Return advantage and value target [B] from `reward` [B] (NaN: none) and the moments of all earlier steps.

    The target (return) is the reward, normalised by the moments that include this step. The advantage is
    target - V_old, whitened over the batch's answers as (A - mean) / (std + 1e-8); 0 where there is no reward.
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
    """Return (Huber(V, R) + Huber(V_clip, R)) / 2 [B], with V_clip = V_old + clamp(V - V_old, -clip, clip).

    A sum and not a maximum, so that a value beyond the clip range keeps half of its gradient.
    """
    clipped = old + (value - old).clamp(-cfg.clip, cfg.clip)
    errors = [huber_loss(v, target, reduction="none", delta=cfg.huber) for v in (value, clipped)]
    return (errors[0] + errors[1]) / 2


def value_loss(values: Tensor | None, batch: Batch, cfg: CriticConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return the value loss of a microbatch, and the values and errors of its answers.

    The loss is the coefficient times the mean over the answers of the whole batch; those of microbatches sum to it.

    Args:
        values: float32 [B, heads], with gradient.
    """
    assert values is not None, "advantage=critic needs values of the current policy"
    assert batch.value_old is not None and batch.value_target is not None, "value_loss needs `credit` first"
    present = batch.trained_lengths("explore") > 0
    value = soft_min(values[present], cfg.softness)
    errors = value_errors(value, batch.value_old[present], batch.value_target[present], cfg)
    return cfg.coefficient * errors.sum() / max(batch.totals["explore"].trajectories, 1), value, errors


def value_metrics(batch: Batch) -> dict[str, float]:
    """Return `value_explained`, 1 - Var(R - V_old) / Var(R), of a whole batch; nothing without a critic, or if
    Var(R) = 0."""
    if batch.value_old is None or batch.value_target is None:
        return {}
    graded = ~batch.value_target.isnan()
    target, value = batch.value_target[graded].double(), batch.value_old[graded].double()
    if len(target) < 2 or not float(target.var()):
        return {}
    return {"value_explained": 1 - float((target - value).var() / target.var())}
