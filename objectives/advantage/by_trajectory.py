"""Compute the advantage of each trajectory [B] from group rewards, by the estimator named in `objective.advantage`."""

import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from objectives.advantage.critic import critic_advantage
from objectives.advantage.estimators import advantages, shaped_reward
from objectives.advantage.target import pseudo_rewards
from objectives.coefficient.controllers import ObjectiveState
from objectives.policy_gradient.gates import long_failure_scale
from objectives.reduce import sum_by_trajectory
from trajectories.batch import Batch


def trajectory_advantage(
    batch: Batch, cfg: ObjectiveConfig, state: ObjectiveState, logp_old: Tensor, logp_reference: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return the advantage of each trajectory [B] and the critic's value target (return) [B], None without a critic.

    Args:
        logp_old: float32 [M], log-probs of the explored tokens under the policy that sampled them.
        logp_reference: float32 [M], those under the reference; needed by advantage=target.
    """
    reward, value_target = shaped_reward(batch, cfg.overlong), None
    if cfg.advantage == "critic":
        advantage, value_target = critic_advantage(batch, reward, state.rewards)
    elif cfg.advantage == "target":
        known = logp_reference is not None and not torch.isnan(logp_reference).any()
        assert known and logp_reference is not None, "advantage=target needs logp_reference"
        seq = batch.seq[batch.on_route("explore")]
        log_u = sum_by_trajectory(logp_old - logp_reference, seq, len(batch.group))
        advantage = pseudo_rewards(log_u, reward, batch.group, cfg.target)
    else:
        advantage = advantages(reward, batch.group, cfg.advantage)
    if cfg.gates.long_failures > 1:
        advantage = advantage * long_failure_scale(batch, cfg.gates.long_failures)
    return advantage, value_target
