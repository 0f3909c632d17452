"""What is settled once per step, on the whole batch and without gradient, before the loss of any part of it."""

from dataclasses import replace

import torch
from torch import Tensor

from configs.objective import WHITENED, ObjectiveConfig
from configs.terms import DivergenceConfig
from objectives.advantage.estimators import whiten
from objectives.advantage.trajectory_advantage import answer_advantage
from objectives.coefficient.controllers import ObjectiveState
from objectives.coefficient.recap import domain_weights
from objectives.divergence.anchors import anchor_logps, known, reference_logps
from objectives.divergence.estimators import answer_log_ratio, answer_slope, answer_value, root_slope, slope, to_go
from objectives.divergence.token_weights import term_weights
from objectives.policy_gradient.gates import conflict_weights
from objectives.reduce import reduction_weights
from trajectories.batch import Batch


@torch.no_grad()
def credit(batch: Batch, cfg: ObjectiveConfig, state: ObjectiveState) -> Batch:
    """`batch` with its advantage [N], the trajectory's on explored tokens less what is wired into the reward, 0
    elsewhere; and with the gates and term weights that whole groups decide.

    Raises AssertionError where a term needs a reference log-prob that is missing.
    """
    explored = batch.on_route("explore")
    old = batch.logp_sampler if batch.logp_old is None else batch.logp_old
    reference = reference_logps(batch, explored) if cfg.advantage == "target" else None
    by_answer, value_target = answer_advantage(batch, cfg, state, old[explored], reference)
    advantage = torch.where(explored, by_answer[batch.seq], 0.0)
    weights: dict[str, Tensor] = {}
    for name, term in cfg.terms.items():
        if term.rehearses:
            if not term.exact:
                known(reference_logps(batch, batch.on_route("rehearse")))
            continue
        anchor = known(anchor_logps(name, term, batch, old[explored], explored))
        weights[name] = _term_weights(name, term, batch, cfg, by_answer, old[explored] - anchor)
        if term.wiring == "reward":
            penalty = _penalty(term, batch, old[explored], anchor, weights[name][explored])
            advantage[explored] -= state.coefficients[name] * penalty
    if cfg.advantage in WHITENED:
        advantage = whiten(advantage, explored)
    if cfg.recap.window:
        advantage = advantage * domain_weights(batch, state.recap, cfg.recap)
    gate = conflict_weights(batch, by_answer) if cfg.gates.conflict_tokens else None
    return replace(batch, advantage=advantage, value_target=value_target, gate=gate, term_weights=weights)


def _penalty(term: DivergenceConfig, batch: Batch, old: Tensor, anchor: Tensor, weights: Tensor) -> Tensor:
    """What one unit of the coefficient takes off the advantage of each explored token."""
    seq = batch.seq[batch.on_route("explore")]
    if term.level == "sequence":
        log_u = answer_log_ratio(old, anchor, seq, len(batch.group))
        there = batch.trained_lengths("explore") > 0
        by_answer = torch.zeros_like(log_u)
        by_answer[there] = answer_slope(term, log_u[there])
        return by_answer[seq]
    if term.horizon == "to_go":
        return to_go(term, old, anchor, weights, seq)
    return weights * slope(term, old, anchor)


def _term_weights(
    name: str, term: DivergenceConfig, batch: Batch, cfg: ObjectiveConfig, by_answer: Tensor, log_u: Tensor
) -> Tensor:
    """float32 [N]: weights of a term's tokens that are decided before the first update; `log_u` of explored tokens."""
    if not (term.root and term.wiring == "loss"):
        shares = reduction_weights(batch, "explore", cfg.reduction_of(term), cfg.constant_length)
        return term_weights(batch, by_answer, term.weights, term=name, log_u=log_u, shares=shares)
    seq = batch.seq[batch.on_route("explore")]
    log_u = answer_log_ratio(log_u, torch.zeros_like(log_u), seq, len(batch.group))
    there = batch.trained_lengths("explore") > 0
    return root_slope(answer_value(term, log_u[there])).expand(len(batch.tokens)).clone()
