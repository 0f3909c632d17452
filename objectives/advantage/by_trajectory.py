"""Compute the advantage of each trajectory [B] from group rewards, by the estimator named in `objective.advantage`."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from configs.rewards import with_answer
from objectives.advantage.critic import critic_advantage
from objectives.advantage.estimators import (
    PLAIN,
    best_answers,
    by_group,
    explored_and_graded,
    group_zscore,
    mean_only,
    over_deviation,
    shaped_reward,
)
from objectives.advantage.flow import flow_targets
from objectives.advantage.kto import kto_advantages
from objectives.advantage.pairs import pair_advantages
from objectives.advantage.pass_k import (
    distinctness,
    majority_zscore,
    pass_k_gain,
    pass_k_zscore,
    uniform_factor,
    unlikely_reward,
    weighted_sign,
)
from objectives.advantage.target import pseudo_rewards
from objectives.coefficient.controllers import ObjectiveState
from objectives.coefficient.recap import recap_weights
from objectives.divergence.anchors import known, reference_logps
from objectives.policy_gradient.gates import long_failure_scale
from objectives.reduce import sum_by_trajectory
from trajectories.batch import Batch


def trajectory_advantage(
    batch: Batch,
    cfg: ObjectiveConfig,
    state: ObjectiveState,
    logp_old: Tensor,
    log_u: Tensor | None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the advantage of each trajectory [B]; the critic's value target (return), or the target of flow balance,
    [B], else None; and the weight of the term of the pairs [B], None without one.

    Args:
        logp_old: float32 [M], log-probs of the explored tokens under the policy that sampled them.
        log_u: float32 [B], of whole answers, from `answer_log_u`; needed by the advantages target and pairs.
        mask: float32 [N], weights of the tokens in the sum of the term of the pairs; None: 1.
    """
    reward, value_target, of_term = shaped_reward(batch, cfg.overlong), None, None
    if cfg.advantage == "critic":
        advantage, value_target = critic_advantage(batch, reward, state.rewards)
    elif cfg.advantage == "flow":
        # The residual, and with it the advantage, is that of the current policy, so the loss computes it.
        advantage = torch.zeros_like(reward)
        logp_reference = known(reference_logps(batch, batch.on_route("explore")))
        value_target = flow_targets(reward, _by_trajectory(logp_reference, batch), batch, cfg.flow)
    elif log_u is not None:
        if cfg.advantage == "target":
            advantage = pseudo_rewards(log_u, reward, batch.group, cfg.target)
        else:
            advantage, of_term = _of_pairs(batch, cfg, state, log_u, reward, mask)
    else:
        if cfg.advantage == "unlikely_zscore":
            logp = _by_trajectory(logp_old, batch)
            for members in batch.graded_groups():
                reward[members] = unlikely_reward(reward[members], logp[members], cfg.pass_k.rank_penalty)
        if cfg.reads_meanings:
            assert batch.meaning is not None, "the batch was packed without the meanings of its answers"
            for members in batch.graded_groups():
                # Only the reward itself is multiplied, so that a penalty on length is one for every answer.
                lost = 1 - distinctness(batch.meaning[members])
                reward[members] -= lost * batch.reward[members]
        estimate = _estimator(cfg, state.pass_k)
        if cfg.advantage == "best_of_n":
            advantage = best_answers(reward, batch.group)
        elif cfg.weighs_rewards and batch.rewards:
            advantage = _of_several(batch, cfg, estimate, recap_weights(state.recap, cfg.recap))
        else:
            advantage = by_group(reward, batch.group, estimate)
        if cfg.advantage == "uniform_zscore":
            mean_logp = _by_trajectory(logp_old, batch) / batch.trained_lengths("explore").clamp(min=1)
            for members in batch.graded_groups():
                advantage[members] *= uniform_factor(reward[members], mean_logp[members], cfg.pass_k.uniformity)
        if cfg.combine == "whitened_advantages":
            advantage = over_deviation(advantage, explored_and_graded(reward, batch.group))
    if cfg.gates.long_failures > 1:
        advantage = advantage * long_failure_scale(batch, cfg.gates.long_failures)
    return advantage, value_target, of_term


def _of_pairs(
    batch: Batch, cfg: ObjectiveConfig, state: ObjectiveState, log_u: Tensor, reward: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return the advantage and the weight of the term of the pairs, None without pairs; both by the values of that term
    before the step's first update."""
    values, lengths = None, batch.trained_lengths("explore")
    if not cfg.pairs.compares:
        return kto_advantages(log_u, reward, lengths, batch.group, cfg.pairs), None
    if cfg.pair_term:
        by_token = batch.distance[cfg.pair_term] * (1.0 if mask is None else mask)
        by_token = by_token[batch.on_route("explore")]
        values = state.coefficients[cfg.pair_term] * _by_trajectory(by_token, batch)
    if cfg.imitates:
        solution = batch.trained_lengths("imitate")
        return pair_advantages(log_u, reward, lengths + solution, batch.group, cfg.pairs, solution=solution > 0)
    return pair_advantages(log_u, reward, lengths, batch.group, cfg.pairs, values)


def _of_several(
    batch: Batch, cfg: ObjectiveConfig, estimate: Callable[[Tensor], Tensor], recap: Mapping[str, float]
) -> Tensor:
    """Return A = sum over rewards n of recap_n x weight_n x estimate(r_n) [B], plus estimate(overlong penalty).

    A closed gate sets every r_n of the answer to 0. Source: GDPO, arXiv:2601.05242.

    Args:
        recap: RECAP's weights of the rewards; one that is missing is 1.
    """
    rewards = with_answer(cfg.rewards)
    closed = torch.zeros(len(batch.group), dtype=torch.bool)
    for name, reward in rewards.items():
        if reward.gate:
            closed |= batch.rewards[name] < 1
    penalty = shaped_reward(batch, cfg.overlong) - batch.reward
    advantage = by_group(penalty, batch.group, estimate)
    for name, reward in rewards.items():
        gated = torch.where(closed, 0.0, batch.rewards[name])
        advantage = advantage + recap.get(name, 1.0) * reward.weight * by_group(gated, batch.group, estimate)
    return advantage


def _estimator(cfg: ObjectiveConfig, k: int) -> Callable[[Tensor], Tensor]:
    """Return the function of the rewards [G] of one group that `objective.advantage` names."""
    estimators: dict[str, Callable[[Tensor], Tensor]] = {
        **PLAIN,
        "pass_k_zscore": partial(pass_k_zscore, k=k),
        "pass_k_gain": partial(pass_k_gain, k=k),
        "weighted_sign": partial(weighted_sign, right_weight=cfg.pass_k.right_weight),
        "unlikely_zscore": group_zscore,
        "uniform_zscore": group_zscore,
        "majority_zscore": majority_zscore,
        "distinct_mean_only": mean_only,
    }
    return estimators[cfg.advantage]


def _by_trajectory(logp: Tensor, batch: Batch) -> Tensor:
    """Return the sum of a column of the explored tokens [M] over each trajectory [B]."""
    return sum_by_trajectory(logp, batch.seq[batch.on_route("explore")], len(batch.group))
