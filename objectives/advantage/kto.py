"""KTO, a preference loss of single answers, as an advantage."""

import torch
from torch import Tensor

from configs.pairs import PairsConfig
from objectives.advantage.pairs import graded_answers


def kto_advantages(log_u: Tensor, reward: Tensor, lengths: Tensor, group: Tensor, cfg: PairsConfig) -> Tensor:
    """Return -B dL / dlog u of each answer [B], with L the mean over the B graded answers of w (1 - sigmoid(x)).

    x = beta (log u - z0) and w = right_weight if the reward is 1 or more, else x = beta (z0 - log u) and w = 1. z0 =
    max(0, mean log u) has no gradient. Answers that the policy has sampled have the mean log u KL(policy || anchor),
    without bias. A NaN reward and group -1 are left out, and get 0. Source: KTO, arXiv:2402.01306.

    Args:
        log_u: float32 [B], log policy - log anchor of whole answers.
        reward: float32 [B].
        lengths: [B], trained tokens of each answer.
        group: int64 [B].
    """
    graded, right = graded_answers(reward, lengths, group), reward >= 1
    above = cfg.beta * (log_u - log_u[graded].mean().clamp(min=0))
    value = torch.sigmoid(torch.where(right, above, -above))
    slope = cfg.beta * value * (1 - value)
    return torch.where(graded, torch.where(right, cfg.right_weight * slope, -slope), 0.0)
