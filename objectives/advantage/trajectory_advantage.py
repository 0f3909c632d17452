"""The advantage of whole answers, before anything is wired into it: which of the slot's choices makes it."""

import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from objectives.advantage.critic import critic_advantage
from objectives.advantage.estimators import advantages, shaped_reward
from objectives.advantage.target import pseudo_rewards
from objectives.coefficient.controllers import ObjectiveState
from objectives.divergence.estimators import answer_log_ratio
from objectives.policy_gradient.gates import long_failure_scale
from trajectories.batch import Batch


def answer_advantage(
    batch: Batch, cfg: ObjectiveConfig, state: ObjectiveState, old: Tensor, reference: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Advantage [B] of each answer, and what a critic is to say of it [B]; `old` and `reference` (of advantage=target)
    are log-probs of the explored tokens."""
    reward, value_target = shaped_reward(batch, cfg.overlong), None
    if cfg.advantage == "critic":
        by_answer, value_target = critic_advantage(batch, reward, state.rewards)
    elif cfg.advantage == "target":
        assert reference is not None and not torch.isnan(reference).any(), "advantage=target needs logp_reference"
        log_u = answer_log_ratio(old, reference, batch.seq[batch.on_route("explore")], len(batch.group))
        by_answer = pseudo_rewards(log_u, reward, batch.group, cfg.target)
    else:
        by_answer = advantages(reward, batch.group, cfg.advantage)
    if cfg.gates.long_failures > 1:
        by_answer = by_answer * long_failure_scale(batch, cfg.gates.long_failures)
    return by_answer, value_target
