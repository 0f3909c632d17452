"""The objective: `credit` once per step without gradient, `loss` for every part of the batch. Both are pure.

Explored tokens get the policy gradient and, wired into the loss, the divergence on the policy's own answers; rehearsed
tokens get the divergence on stored reference answers and nothing else. N tokens, B trajectories.
"""

from dataclasses import replace

import torch
from torch import Tensor

from configs.objective_schema import ObjectiveConfig
from objectives.advantages import advantages
from objectives.controllers import KL_PER_TRAJECTORY, ObjectiveState
from objectives.diagnostics import TensorStats, per_trajectory, sampler_mismatch, total
from objectives.divergences import own_answers_loss, own_answers_value, reward_penalty, stored_answers_loss
from objectives.ratios import policy_gradient, ratio_of
from objectives.reduce import reduction_weights
from trajectories.batch import Batch
from trajectories.trajectory import Route


@torch.no_grad()
def credit(batch: Batch, cfg: ObjectiveConfig, state: ObjectiveState) -> Batch:
    """`batch` with its advantage [N]: the trajectory's on explored tokens, less a reward-wired divergence; 0 elsewhere.

    Raises AssertionError where the divergence needs a reference log-prob that is missing.
    """
    explored = batch.on_route("explore")
    by_trajectory = advantages(batch.reward, batch.group, cfg.advantage)
    advantage = torch.where(explored, by_trajectory[batch.seq], 0.0)
    if cfg.divergence.needs_reference:
        reference = _known_reference(batch, explored)
        if cfg.divergence.wiring == "reward":
            old = batch.logp_sampler if batch.logp_old is None else batch.logp_old
            advantage[explored] -= state.coefficient * reward_penalty(cfg.divergence, old[explored], reference)
    if cfg.divergence.rehearses:
        _known_reference(batch, batch.on_route("rehearse"))
    return replace(batch, advantage=advantage)


def _known_reference(batch: Batch, tokens: Tensor) -> Tensor:
    reference = _reference(batch, tokens)
    assert not reference.isnan().any(), "the divergence needs logp_reference on tokens where it is unknown"
    return reference


def _reference(batch: Batch, tokens: Tensor) -> Tensor:
    if batch.logp_reference is not None:
        return batch.logp_reference[tokens]
    assert not tokens.any(), "the divergence needs logp_reference and the batch has none"
    return batch.logp_sampler.new_zeros(0)


def loss(logp_learner: Tensor, batch: Batch, cfg: ObjectiveConfig, coefficient: float) -> tuple[Tensor, TensorStats]:
    """This part's share of the loss of the whole batch, and its metrics.

    `logp_learner` [N] is read where `batch.mask` holds. Shares of the parts of a batch add up to its loss; a part
    without trained tokens has loss 0, with a gradient (of zeros) to take.
    """
    assert logp_learner.shape == batch.tokens.shape, f"logp_learner {tuple(logp_learner.shape)}: one per token"
    value, stats = _explore(logp_learner, batch, cfg, coefficient)
    if cfg.divergence.rehearses:
        rehearsed, stats["divergence"] = _rehearse(logp_learner, batch, cfg)
        value = value + coefficient * rehearsed
    return value, stats


# A route's tokens are always indexed out first: log-probs that are unknown on the other route are NaN, and torch.where
# would carry them into the gradient.


def _explore(
    logp_learner: Tensor, batch: Batch, cfg: ObjectiveConfig, coefficient: float
) -> tuple[Tensor, TensorStats]:
    tokens = batch.on_route("explore")
    logp, sampler = logp_learner[tokens], batch.logp_sampler[tokens]
    trainer = logp.detach() if batch.logp_old is None else batch.logp_old[tokens]
    old = sampler if cfg.old_policy == "sampler" else trainer
    assert batch.advantage is not None or not len(logp), "explored tokens need `credit` first"
    advantage = logp.new_zeros(0) if batch.advantage is None else batch.advantage[tokens]
    weights = reduction_weights(batch, "explore", cfg.reduction, cfg.constant_length)[tokens]
    token_loss, clipped = policy_gradient(logp, old, advantage, cfg.ratio, cfg.clip)
    policy_loss = value = (weights * token_loss).sum()
    stats = {
        "policy_loss": total(policy_loss, weight=_share(batch, "explore", len(logp))),
        "clip_fraction": total(clipped.float()),
        "ratio": total(ratio_of(logp, old)),
        "advantage_magnitude": total(advantage.abs()),
        **_trajectory_stats(batch, tokens, old),
        **sampler_mismatch(trainer, sampler),
    }
    if cfg.divergence.needs_reference:
        reference = _reference(batch, tokens)
        stats["divergence"] = total(own_answers_value(cfg.divergence, logp, reference))
        if cfg.divergence.wiring == "loss":
            value = value + coefficient * (weights * own_answers_loss(cfg.divergence, logp, reference, old)).sum()
    return value, stats


def _rehearse(logp_learner: Tensor, batch: Batch, cfg: ObjectiveConfig) -> tuple[Tensor, Tensor]:
    """The rehearsed share of the divergence, and its metric: the mean over tokens, whatever the reduction."""
    tokens = batch.on_route("rehearse")
    weights = reduction_weights(batch, "rehearse", cfg.reduction, cfg.constant_length)[tokens]
    token_loss = stored_answers_loss(cfg.divergence, logp_learner[tokens], _reference(batch, tokens))
    return (weights * token_loss).sum(), total(token_loss)


def _trajectory_stats(batch: Batch, tokens: Tensor, old: Tensor) -> TensorStats:
    """Per explored trajectory with a trained token: reward, answer length, and summed k1 KL where it is known."""
    seq, count = batch.seq[tokens], len(batch.route)
    lengths = torch.bincount(seq, minlength=count)
    rewards, kl = batch.reward[lengths > 0], old.new_zeros(0)
    if batch.logp_reference is not None:
        kl = per_trajectory(old - batch.logp_reference[tokens], seq, count)
    return {
        "reward": total(rewards[~rewards.isnan()]),
        "answer_length": total(lengths[lengths > 0].float()),
        KL_PER_TRAJECTORY: total(kl),
    }


def _share(batch: Batch, route: Route, tokens: int) -> float:
    """Weight under which the losses of parts, which are sums already, average to the loss of the whole."""
    return tokens / max(batch.totals[route].tokens, 1)
