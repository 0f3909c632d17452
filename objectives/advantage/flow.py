"""Flow balance (FlowRL, arXiv:2509.15207): an answer's residual is the slope of its log-probs and of log Z.

With D = log Z + mean_t log pi - beta r - mean_t log reference, the loss of an answer is w D^2, where w is its detached
ratio. Its gradient by the log-prob of each of T tokens is 2 w D / T: that of a policy gradient with the advantage
-2 w D, in a mean over answers of their token means. B trajectories, M explored tokens.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from configs.flow import FlowConfig
from objectives.advantage.estimators import by_group, group_zscore
from objectives.policy_gradient.ratios import LOG_RATIO_LIMIT
from objectives.reduce import sum_by_trajectory
from trajectories.batch import Batch


class Flow(NamedTuple):
    """What the residuals of a microbatch give."""

    advantage: Tensor
    """float32 [M], detached."""
    loss: Tensor
    """Scalar: the part of this microbatch in the mean of w D^2 over all answers. Its gradient is that by log Z."""
    log_z: Tensor
    """float32 [answers with a trained token]."""
    errors: Tensor
    """w D^2, float32 [answers with a trained token]."""


def flow_targets(reward: Tensor, logp_reference: Tensor, batch: Batch, cfg: FlowConfig) -> Tensor:
    """Return beta r + mean_t log reference of each answer [B], NaN where there is no reward.

    Args:
        reward: float32 [B].
        logp_reference: float32 [B], the sum over the explored tokens of each answer.
    """
    mean = logp_reference / batch.trained_lengths("explore").clamp(min=1)
    return torch.where(reward.isnan(), torch.nan, cfg.beta * by_group(reward, batch.group, group_zscore) + mean)


def flow_balance(values: Tensor | None, logp: Tensor, logp_old: Tensor, batch: Batch, cfg: FlowConfig) -> Flow:
    """Return the advantage, and the loss of log Z, under the current policy; `credit` comes first.

    Args:
        values: float32 [B, 1], log Z, with gradient.
        logp, logp_old: float32 [M], of the explored tokens; logp_old is the denominator of the ratio.
    """
    assert values is not None and batch.value_target is not None, "advantage=flow needs log Z, and `credit` first"
    seq, lengths = batch.seq[batch.on_route("explore")], batch.trained_lengths("explore")
    size, present = len(lengths), lengths > 0
    mean = sum_by_trajectory(logp.detach(), seq, size) / lengths.clamp(min=1)
    log_ratio = sum_by_trajectory(logp.detach() - logp_old, seq, size).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    weight = log_ratio.exp().clamp(1 - cfg.clip, 1 + cfg.clip)
    log_z = values[:, 0]
    residual = torch.where(present, log_z + mean - batch.value_target, 0.0)
    errors = (weight * residual.square())[present]
    loss = errors.sum() / max(batch.totals["explore"].trajectories, 1)
    return Flow((-2 * weight * residual.detach())[seq], loss, log_z[present], errors)
