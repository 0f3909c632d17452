"""Compute advantages, token gates and term weights for the whole batch, once per step, without gradient."""

from dataclasses import replace

import torch
from torch import Tensor

from configs.objective import WHITENED, ObjectiveConfig
from configs.terms import TermConfig
from objectives.advantage.by_trajectory import trajectory_advantage
from objectives.advantage.estimators import whiten
from objectives.advantage.token_mask import pair_mask
from objectives.coefficient.controllers import ObjectiveState
from objectives.coefficient.recap import domain_weights
from objectives.divergence.anchors import anchor_logps, answer_log_u, known, logp_before, reference_logps
from objectives.divergence.token_weights import token_weights
from objectives.divergence.wiring.term import TermTokens
from objectives.divergence.wirings import wiring_of
from objectives.policy_gradient.covariance import high_covariance
from objectives.policy_gradient.gates import conflict_weights
from objectives.reduce import reduction_weights
from trajectories.batch import Batch


@torch.no_grad()
def credit(batch: Batch, cfg: ObjectiveConfig, state: ObjectiveState) -> Batch:
    """Return the batch with everything that is computed from whole groups, before it is split into microbatches.

    It gains the advantage [N] of every token of the policy's own answers and of imitated ones (its trajectory's
    advantage, on explored tokens minus the penalties of terms in the reward wiring; 0 elsewhere), value targets,
    policy-gradient gates, the tokens chosen by covariance, and the weights and factors of divergence terms.

    Raises:
        AssertionError: a term needs a reference log-prob that is missing.
    """
    explored = batch.on_route("explore")
    logp_old = logp_before(batch)[explored]
    mask = pair_mask(batch, cfg, state.mask)
    log_u = answer_log_u(batch, cfg, mask)
    by_trajectory, value_target, of_term = trajectory_advantage(batch, cfg, state, logp_old, log_u, mask)
    credited = batch.on_route("explore", "imitate", "experience")
    advantage = torch.where(credited, by_trajectory[batch.seq], 0.0)
    if mask is not None:
        advantage = advantage * mask
    weights: dict[str, Tensor] = {}
    factors: dict[str, float] = {}
    for name, term in cfg.terms.items():
        if term.rehearses:
            if term.reads_stored_logps:
                known(reference_logps(batch, batch.on_route("rehearse")))
            continue
        tokens, weights[name] = _explored_tokens(name, term, batch, cfg, by_trajectory, logp_old)
        if name == cfg.pair_term and of_term is not None:
            weights[name] = weights[name] * of_term[batch.seq] * (1.0 if mask is None else mask)
        wiring = wiring_of(term)
        if wiring.credited_penalty:
            advantage[explored] -= state.coefficients[name] * wiring.credited_penalty(tokens)
        if wiring.factor:
            factors[name] = wiring.factor(tokens)
    if cfg.advantage in WHITENED:
        advantage = whiten(advantage, explored)
    if cfg.recap.window and not cfg.weighs_rewards:
        advantage = advantage * domain_weights(batch, state.recap, cfg.recap)
    gate = conflict_weights(batch, by_trajectory) if cfg.gates.conflict_tokens else None
    chosen = high_covariance(batch, logp_old, advantage, cfg.covariance) if cfg.covariance.kind != "none" else None
    return replace(
        batch,
        advantage=advantage,
        in_loss=_in_loss(batch, cfg, advantage, chosen),
        value_target=value_target,
        gate=gate,
        high_covariance=chosen,
        term_weights=weights,
        term_factors=factors,
    )


def _in_loss(batch: Batch, cfg: ObjectiveConfig, advantage: Tensor, chosen: Tensor | None) -> Tensor:
    """Return which trajectories have a gradient, bool [B]: those with a trained token, and where an explored answer has
    none but through its advantage and KL-Cov, those of advantage other than 0 or with a penalised token."""
    tokens = batch.mask
    if cfg.only_advantages:
        trained = (advantage != 0) | ~batch.on_route("explore")
        if chosen is not None and cfg.covariance.kind == "kl":
            trained = trained | chosen
        tokens = tokens & trained
    return torch.bincount(batch.seq[tokens], minlength=len(batch.route)) > 0


def _explored_tokens(
    name: str, term: TermConfig, batch: Batch, cfg: ObjectiveConfig, by_trajectory: Tensor, logp_old: Tensor
) -> tuple[TermTokens, Tensor]:
    """Return the inputs of a term on the explored tokens of the whole batch, and its weights [N]."""
    explored = batch.on_route("explore")
    anchor = known(anchor_logps(name, term, batch, logp_old, explored))
    reduction = reduction_weights(batch, "explore", cfg.reduction_of(term), cfg.constant_length)
    weights = token_weights(batch, by_trajectory, term.weights, term=name, log_u=logp_old - anchor, reduction=reduction)
    tokens = TermTokens(
        cfg=term,
        logp=logp_old,
        logp_old=logp_old,
        logp_anchor=anchor,
        seq=batch.seq[explored],
        weights=weights[explored],
        reduction=reduction[explored],
        trajectories=len(batch.route),
        total_trajectories=batch.totals["explore"].trajectories,
    )
    return tokens, weights
