"""Advantages that aim at Pass@k, or that weigh right and wrong answers differently.

Each is a function of the rewards [G] of one group. An answer is right if its reward is 1 or more.
"""

from math import comb, sqrt

import torch
from torch import Tensor

from objectives.advantage.estimators import group_zscore, leave_one_out


def pass_k_zscore(reward: Tensor, k: int) -> Tensor:
    """Return (mean reward of the sets of k answers that contain it - mean of all sets) / std of all sets [G].

    The reward of a set is 1 if any of its answers is right, else 0. With n answers, c of them right:
    mean = rho = 1 - C(n-c, k) / C(n, k), std = sqrt(rho (1 - rho)); the mean of a right answer's sets is 1, that of a
    wrong answer's 1 - C(n-c-1, k-1) / C(n-1, k-1). It is 0 for all if all sets are equal. k is at most n. Source:
    Pass@k training, arXiv:2508.10751.
    """
    right = reward >= 1
    n, wrong = len(reward), int((~right).sum())
    k = min(k, n)
    without_right = comb(wrong, k) / comb(n, k)  # exactly 0 or 1 where all sets are equal
    if without_right in (0, 1):
        return torch.zeros_like(reward)
    mean, std = 1 - without_right, sqrt(without_right * (1 - without_right))
    mean_with_wrong = 1 - comb(wrong - 1, k - 1) / comb(n - 1, k - 1)
    return torch.where(right, (1 - mean) / std, (mean_with_wrong - mean) / std).to(reward)


def pass_k_gain(reward: Tensor, k: int) -> Tensor:
    """Return k times the mean of max(0, r_i - best reward of k - 1 others) over all sets of k - 1 others [G].

    For rewards of 0 and 1 it is k C(n-c, k-1) / C(n-1, k-1) on right answers and 0 on wrong ones. Its expected gradient
    is that of the best reward of k answers, so of Pass@k: what the others reach alone is a baseline. With k = 1 the
    baseline is `leave_one_out`. k is at most n. Source: PKPO, arXiv:2505.15201, s_loo-1 times n.
    """
    n = len(reward)
    k = min(k, n)
    if k == 1:
        return leave_one_out(reward)
    # Of the sets of k - 1 others, the fraction C(j, k-2) / C(n-1, k-1) has the answer with j lower ones as its best. If
    # answer i is higher, it is not one of the j; if it is not, it gains 0.
    fractions = [comb(j, k - 2) / comb(n - 1, k - 1) for j in range(n)]
    gains = (reward[:, None] - reward.sort().values).clamp(min=0)  # [G, G]
    return k * gains @ reward.new_tensor(fractions)


def weighted_sign(reward: Tensor, right_weight: float) -> Tensor:
    """Return `right_weight` (lambda) on right answers and -1 on wrong ones [G]. Source: W-REINFORCE, and with lambda 0
    negative sample reinforcement, arXiv:2506.01347."""
    return torch.where(reward >= 1, right_weight, -1.0).to(reward)


def unlikely_reward(reward: Tensor, logp: Tensor, rank_penalty: float) -> Tensor:
    """Return r (1 - rank_penalty m / G) on right answers and r on wrong ones [G], where m answers are less likely.

    Of equally likely answers each counts half of the others. Source: unlikeliness reward, arXiv:2506.02355.

    Args: logp: float32 [G], log-prob of each whole answer under the policy that sampled it, in nats.
    """
    less_likely = (logp < logp[:, None]).to(reward).sum(1)
    equally_likely = (logp == logp[:, None]).to(reward).sum(1) - 1
    factor = 1 - rank_penalty * (less_likely + equally_likely / 2) / len(reward)
    return torch.where(reward >= 1, reward * factor, reward)


def uniform_factor(reward: Tensor, mean_logp: Tensor, uniformity: float) -> Tensor:
    """Return 1 - tau + tau c w_i on the c right answers and 1 on wrong ones [G], w_i = (1 / q_i) / sum over the right
    ones of 1 / q. Its mean over the right answers is 1.

    Source: UCPO, arXiv:2605.00365, as its code computes it ("iq").

    Args: mean_logp: float32 [G], log q, the mean log-prob per token of each answer, in nats.
    """
    right, factor = reward >= 1, torch.ones_like(reward)
    shares = (-mean_logp[right]).softmax(0)
    factor[right] = 1 - uniformity + uniformity * len(shares) * shares
    return factor


def majority_zscore(reward: Tensor) -> Tensor:
    """Return the z-score of one group [G], over 2 sqrt(p (1 - p)) where the fraction p of right answers is above 1/2.

    For rewards of 0 and 1 the mean of the magnitude of r - mean over the deviation is 2 sqrt(p (1 - p)), so that every
    group with a majority of right answers has one weight. Source: MCPO, arXiv:2604.16972, equations 12 and 13.
    """
    p = float((reward >= 1).float().mean())
    return group_zscore(reward) / (2 * sqrt(p * (1 - p)) if 0.5 < p < 1 else 1)


def distinctness(meaning: Tensor) -> Tensor:
    """Return the fraction of the other answers of one group that are another solution, float32 [G]; 0 for a group of
    one.

    Source: DARLING, arXiv:2509.02534, whose code divides the number of answers outside an answer's class by G - 1.

    Args: meaning: int64 [G], equal for answers that are the same solution.
    """
    others = (meaning != meaning[:, None]).sum(1)
    return others / max(1, len(meaning) - 1)
