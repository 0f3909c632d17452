"""The loss of a batch, or of one microbatch of it, after `credit`: a pure function.

Explored tokens get the policy gradient and the terms with route explore, rehearsed tokens the terms with route
rehearse, replayed tokens the negative log-likelihood, imitated tokens the policy gradient alone, and tokens of
experience a weighted policy gradient. N tokens, B trajectories, M trained tokens of one route.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from configs.terms import TermConfig
from objectives.advantage.critic import value_loss
from objectives.advantage.flow import flow_balance
from objectives.coefficient.controllers import term_metric
from objectives.coefficient.recap import REPLAY, replay_loss
from objectives.diagnostics import TensorStats, sampler_mismatch, total, trajectory_stats
from objectives.divergence.anchors import anchor_logps, reference_logps
from objectives.divergence.token_weights import entropy_weights
from objectives.divergence.wiring.rehearse import rehearsal_factor
from objectives.divergence.wiring.term import TermTokens
from objectives.divergence.wirings import wiring_of
from objectives.policy_gradient.experience import experience_loss
from objectives.policy_gradient.mismatch import mismatch_weights
from objectives.policy_gradient.ratios import policy_gradient, ratio_of
from objectives.reduce import answer_mean, reduction_weights
from trajectories.batch import Batch
from trajectories.trajectory import OWN_ROUTES


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Log-probs, entropies and values of a batch under the current policy; only tokens with mask True are read."""

    logp: Tensor
    """float32 [N], nats, with gradient."""
    entropy: Tensor
    """float32 [N], nats; with gradient when the objective has an entropy bonus."""
    log_vocabulary: float
    """log V, the largest possible entropy, in nats."""
    exact: Mapping[str, Tensor] = field(default_factory=dict)
    """float32 [N] per term that reads whole distributions: its value, with gradient, or its potential at the token."""
    values: Tensor | None = None
    """float32 [B, heads], with gradient, of a critic or of log Z."""


def loss(
    scores: Scores, batch: Batch, cfg: ObjectiveConfig, coefficients: Mapping[str, float]
) -> tuple[Tensor, TensorStats]:
    """Return the loss of one microbatch, normalised by the whole batch's totals, and its metrics.

    The losses of all microbatches sum to the loss of the batch. A microbatch without trained tokens has loss 0 with a
    zero gradient, so that every rank can call backward.

    Args:
        coefficients: weight of each divergence term by its name, and of the replay loss under `replay`.
    """
    assert scores.logp.shape == batch.tokens.shape, f"logp {tuple(scores.logp.shape)}: one per token"
    # The tokens of a route are always selected first: log-probs that are missing on another route are NaN, and
    # torch.where would carry NaN into the gradient.
    explored = batch.on_route("explore")
    logp_old = scores.logp[explored].detach() if batch.logp_old is None else batch.logp_old[explored]
    # Denominator of the importance ratio.
    denominator = batch.logp_sampler[explored] if cfg.old_policy == "sampler" else logp_old
    terms = {name: _term_tokens(name, term, scores, batch, cfg, denominator) for name, term in cfg.terms.items()}
    advantage = _advantage(scores, batch, cfg, coefficients, terms)
    flow = None
    if cfg.advantage == "flow":
        flow = flow_balance(scores.values, scores.logp[explored], denominator, batch, cfg.flow)
        advantage = advantage + flow.advantage
    value, stats = _policy_loss(scores, batch, cfg, advantage, denominator, logp_old)
    if flow:
        value = value + flow.loss
        stats |= {"log_z": total(flow.log_z), "flow_loss": total(flow.errors)}
    if cfg.has_experience:
        of_experience, measured = experience_loss(scores.logp, batch, cfg)
        value, stats = value + of_experience, stats | measured
    if cfg.advantage == "critic":
        critic_loss, values, errors = value_loss(scores.values, batch, cfg.critic)
        value = value + critic_loss
        stats |= {"value": total(values), "value_loss": total(errors)}
    for name, tokens in terms.items():
        wiring = wiring_of(tokens.cfg)
        if wiring.loss:
            value = value + coefficients[name] * wiring.loss(tokens)
        stats[term_metric(name, "value")] = total(wiring.values(tokens))
        if tokens.cfg.coefficient.kind == "confidence":
            stats[term_metric(name, "confidence")] = total(tokens.logp_anchor.exp())
        if tokens.cfg.weights.chosen:
            stats[term_metric(name, "weight")] = total(tokens.weights)
            stats[term_metric(name, "kept")] = total((tokens.weights > 0).float())
    if cfg.replays:
        replayed, negative_logp = replay_loss(scores.logp, batch)
        value, stats["replay_loss"] = value + coefficients[REPLAY] * replayed, total(negative_logp)
    if cfg.imitates:
        stats["solution_nll"] = total(-scores.logp[batch.on_route("imitate")])
    return value, stats


def _policy_loss(
    scores: Scores, batch: Batch, cfg: ObjectiveConfig, advantage: Tensor, denominator: Tensor, logp_old: Tensor
) -> tuple[Tensor, TensorStats]:
    """Return the policy-gradient loss minus the entropy bonus, and the metrics of the explored tokens."""
    explored = batch.on_route("explore")
    logp, sampler, seq = scores.logp[explored], batch.logp_sampler[explored], batch.seq[explored]
    token_loss, clipped = policy_gradient(logp, denominator, advantage, seq, cfg)
    if batch.high_covariance is not None and cfg.covariance.kind == "kl":
        # |log rho| and not an estimator of the KL, as in the authors' code; its slope at ratio 1 is 0.
        penalty = cfg.covariance.penalty * (logp - denominator).abs()
        token_loss = token_loss + batch.high_covariance[explored] * penalty
    gate, gate_stats = _gate(scores, batch, cfg, logp_old, advantage)
    reduction = reduction_weights(batch, OWN_ROUTES, cfg.reduction, cfg.constant_length)[explored]
    # Unscored answers have the sampler's log-probs in place of the learner's, so they tell nothing of the ratio.
    scored = slice(None) if batch.in_loss is None or batch.logp_old is not None else batch.in_loss[seq]
    policy_loss = (reduction * gate * token_loss).sum()
    if cfg.imitates:
        policy_loss = policy_loss + _imitation_loss(scores, batch)
    value = policy_loss
    if cfg.entropy_bonus:
        value = value - cfg.entropy_bonus * (reduction * scores.entropy[explored]).sum()
    # policy_loss is already normalised by the whole batch. With these weights, which sum to 1 over all microbatches,
    # sum / weight is the loss of the batch.
    weight = len(logp) / max(batch.totals["explore"].tokens, 1)
    return value, {
        "policy_loss": total(policy_loss, weight=weight),
        "clip_fraction": total(clipped.float()),
        "ratio": total(ratio_of(logp, denominator)[scored]),
        "advantage_magnitude": total(advantage.abs()),
        **gate_stats,
        **trajectory_stats(batch, explored, denominator),
        **sampler_mismatch(logp_old[scored], sampler[scored]),
    }


def _imitation_loss(scores: Scores, batch: Batch) -> Tensor:
    """Return the policy-gradient loss of imitated answers, without ratio and gates.

    The sum over their tokens is divided by the number of explored answers, for which their advantage was computed.
    """
    imitated = batch.on_route("imitate")
    if batch.advantage is None or not imitated.any():
        return scores.logp.new_zeros(())
    return -(batch.advantage[imitated] * scores.logp[imitated]).sum() / max(batch.totals["explore"].trajectories, 1)


def _advantage(
    scores: Scores,
    batch: Batch,
    cfg: ObjectiveConfig,
    coefficients: Mapping[str, float],
    terms: Mapping[str, TermTokens],
) -> Tensor:
    """Return the advantage of the explored tokens [M] minus the penalties under the current policy; detached."""
    explored = batch.on_route("explore")
    assert batch.advantage is not None or not explored.any(), "explored tokens need `credit` first"
    advantage = scores.logp.new_zeros(int(explored.sum())) if batch.advantage is None else batch.advantage[explored]
    if cfg.gates.entropy_penalty:
        entropy = answer_mean(scores.entropy[explored].detach(), batch.seq[explored])
        advantage = advantage - cfg.gates.entropy_penalty * entropy
    for name, tokens in terms.items():
        wiring = wiring_of(tokens.cfg)
        if wiring.current_penalty:
            advantage = advantage - coefficients[name] * wiring.current_penalty(tokens)
    return advantage


def _gate(
    scores: Scores, batch: Batch, cfg: ObjectiveConfig, logp_old: Tensor, advantage: Tensor
) -> tuple[Tensor, TensorStats]:
    """Return the weights on the policy gradient of the explored tokens [M], detached, and their metrics."""
    explored = batch.on_route("explore")
    seq, logp = batch.seq[explored], scores.logp[explored].detach()
    gate = torch.ones_like(logp) if batch.gate is None else batch.gate[explored].clone()
    stats: TensorStats = {}
    if cfg.gates.entropy_limit:
        kept = answer_mean(scores.entropy[explored].detach(), seq) <= cfg.gates.entropy_limit
        gate = gate * kept
        stats["entropy_filtered"] = total((~kept).float())
    if cfg.mismatch.active:
        weight = mismatch_weights(logp_old, batch.logp_sampler[explored], logp, advantage, seq, cfg.mismatch)
        gate = gate * weight
        stats |= {"mismatch_weight": total(weight), "mismatch_rejected": total((weight == 0).float())}
    if batch.gate is not None:
        stats["conflict_tokens"] = total((batch.gate[explored] != 1).float())
    if batch.high_covariance is not None:
        chosen = batch.high_covariance[explored]
        gate = gate * ~chosen if cfg.covariance.kind == "clip" else gate
        stats["covariance_tokens"] = total(chosen.float())
    return gate, stats


def _term_tokens(
    name: str, term: TermConfig, scores: Scores, batch: Batch, cfg: ObjectiveConfig, denominator: Tensor
) -> TermTokens:
    """Return the inputs of a divergence term: the trained tokens of its route in this microbatch."""
    tokens = batch.on_route(term.route)
    logp = scores.logp[tokens]
    if term.rehearses:
        # The vocabulary wiring compares distributions, so it needs no log-probs of the rehearsed tokens.
        anchor = reference_logps(batch, tokens) if term.reads_stored_logps else logp.detach()
        denominator = anchor  # the reference sampled the rehearsed answers
    else:
        anchor = anchor_logps(name, term, batch, denominator, tokens)
    return TermTokens(
        cfg=term,
        logp=logp,
        logp_old=denominator,
        logp_anchor=anchor,
        seq=batch.seq[tokens],
        weights=_weights(name, term, scores, batch, tokens),
        reduction=reduction_weights(batch, term.route, cfg.reduction_of(term), cfg.constant_length)[tokens],
        trajectories=len(batch.route),
        total_trajectories=batch.totals[term.route].trajectories,
        factor=rehearsal_factor(batch, term) if term.rehearses else batch.term_factors.get(name, 1.0),
        exact=scores.exact[name][tokens] if term.reads_distributions else None,
    )


def _weights(name: str, term: TermConfig, scores: Scores, batch: Batch, tokens: Tensor) -> Tensor:
    """Return the weights of a term [M]: those from `credit`, times those of the current policy's entropy; detached."""
    weights = batch.term_weights[name][tokens] if name in batch.term_weights else torch.ones_like(scores.logp[tokens])
    if term.weights.entropy_power:
        entropy = scores.entropy[tokens]
        weights = weights * entropy_weights(entropy, scores.log_vocabulary, term.weights.entropy_power)
    return weights.detach()
