"""The loss of every part of a batch that `credit` has prepared: pure, a sum of shares.

Explored tokens get the policy gradient and the divergence terms on the policy's own answers; rehearsed tokens get the
terms on stored reference answers, replayed tokens the negative log-likelihood, nothing else. N tokens, B trajectories.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from configs.terms import DivergenceConfig
from objectives.advantage.critic import value_loss
from objectives.coefficient.controllers import term_metric
from objectives.coefficient.recap import REPLAY, replay_loss
from objectives.diagnostics import TensorStats, sampler_mismatch, total, trajectory_stats
from objectives.divergence.anchors import anchor_logps, reference_logps
from objectives.divergence.estimators import (
    answer_log_ratio,
    answer_value,
    own_answers_loss,
    own_answers_value,
    slope,
    stored_answers_loss,
)
from objectives.divergence.token_weights import entropy_weights
from objectives.divergence.wasserstein import drawn_value
from objectives.policy_gradient.mismatch import mismatch_weights
from objectives.policy_gradient.ratios import policy_gradient, ratio_of
from objectives.reduce import answer_mean, reduction_weights, rehearsal_weight
from trajectories.batch import Batch
from trajectories.trajectory import Route


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What the policy says of the tokens of a batch, read where its mask holds."""

    logp: Tensor
    """float32 [N], nats, with gradient."""
    entropy: Tensor
    """float32 [N], nats; with gradient when the objective has an entropy bonus."""
    log_vocabulary: float
    """log V: the largest entropy there is."""
    exact: Mapping[str, Tensor] = field(default_factory=dict)
    """float32 [N] for each term that reads whole distributions: its value, with gradient, or potential at the token."""
    values: Tensor | None = None
    """float32 [B, heads], with gradient, of a critic."""


def loss(
    scores: Scores, batch: Batch, cfg: ObjectiveConfig, coefficients: Mapping[str, float]
) -> tuple[Tensor, TensorStats]:
    """This part's share of the loss of the whole batch, and its metrics; `coefficients` by the names of the terms.

    Shares of the parts of a batch add up to its loss; a part without trained tokens has loss 0, with a gradient (of
    zeros) to take.
    """
    assert scores.logp.shape == batch.tokens.shape, f"logp {tuple(scores.logp.shape)}: one per token"
    value, stats = _explore(scores, batch, cfg, coefficients)
    for name, term in cfg.terms.items():
        if term.rehearses:
            rehearsed, stats[term_metric("divergence", name)] = _rehearse(name, term, scores, batch, cfg)
            value = value + coefficients[name] * rehearsed
    if cfg.replays:
        replayed, surprise = replay_loss(scores.logp, batch)
        value, stats["replay_loss"] = value + coefficients[REPLAY] * replayed, total(surprise)
    return value, stats


# A route's tokens are always indexed out first: log-probs that are unknown on the other route are NaN, and torch.where
# would carry them into the gradient.


def _explore(
    scores: Scores, batch: Batch, cfg: ObjectiveConfig, coefficients: Mapping[str, float]
) -> tuple[Tensor, TensorStats]:
    tokens = batch.on_route("explore")
    logp, sampler, seq = scores.logp[tokens], batch.logp_sampler[tokens], batch.seq[tokens]
    trainer = logp.detach() if batch.logp_old is None else batch.logp_old[tokens]
    old = sampler if cfg.old_policy == "sampler" else trainer
    advantage = _advantage(scores, batch, cfg, coefficients, old)
    token_loss, clipped = policy_gradient(logp, old, advantage, seq, cfg)
    gate, gate_stats = _gate(scores, batch, cfg, trainer, advantage)
    weights = reduction_weights(batch, "explore", cfg.reduction, cfg.constant_length)[tokens]
    policy_loss = value = (weights * gate * token_loss).sum()
    stats = {
        "policy_loss": total(policy_loss, weight=_share(batch, "explore", len(logp))),
        "clip_fraction": total(clipped.float()),
        "ratio": total(ratio_of(logp, old)),
        "advantage_magnitude": total(advantage.abs()),
        **gate_stats,
        **trajectory_stats(batch, tokens, old),
        **sampler_mismatch(trainer, sampler),
    }
    if cfg.advantage == "critic":
        critic_loss, values, errors = value_loss(scores.values, batch, cfg.critic)
        value = value + critic_loss
        stats |= {"value": total(values), "value_loss": total(errors)}
    if cfg.entropy_bonus:
        value = value - cfg.entropy_bonus * (weights * scores.entropy[tokens]).sum()
    for name, term in cfg.terms.items():
        if not term.rehearses:
            term_loss, stats[term_metric("divergence", name)] = _own_term(name, term, scores, batch, cfg, old)
            value = value + coefficients[name] * term_loss
            if term.weights.chosen:
                weight = _weights(name, term, scores, batch)
                stats[term_metric("divergence_weight", name)] = total(weight)
                stats[term_metric("divergence_kept", name)] = total((weight > 0).float())
    return value, stats


def _advantage(
    scores: Scores, batch: Batch, cfg: ObjectiveConfig, coefficients: Mapping[str, float], old: Tensor
) -> Tensor:
    """The credited advantage of the explored tokens, less what depends on the policy as it is now; detached."""
    tokens = batch.on_route("explore")
    assert batch.advantage is not None or not tokens.any(), "explored tokens need `credit` first"
    advantage = scores.logp.new_zeros(int(tokens.sum())) if batch.advantage is None else batch.advantage[tokens]
    if cfg.gates.entropy_penalty:
        entropy = answer_mean(scores.entropy[tokens].detach(), batch.seq[tokens])
        advantage = advantage - cfg.gates.entropy_penalty * entropy
    for name, term in cfg.terms.items():
        if term.wiring == "joint":
            anchor = anchor_logps(name, term, batch, old, tokens)
            own = scores.exact[name][tokens] if term.potential else slope(term, scores.logp[tokens], anchor)
            advantage = advantage - coefficients[name] * _weights(name, term, scores, batch) * own.detach()
    return advantage


def _weights(name: str, term: DivergenceConfig, scores: Scores, batch: Batch) -> Tensor:
    """Weights of a term on the explored tokens, by what `credit` decided and by the policy's entropy; detached."""
    tokens = batch.on_route("explore")
    weights = batch.term_weights[name][tokens] if name in batch.term_weights else torch.ones_like(scores.logp[tokens])
    if term.weights.entropy_power:
        entropy = scores.entropy[tokens]
        weights = weights * entropy_weights(entropy, scores.log_vocabulary, term.weights.entropy_power)
    return weights.detach()


def _gate(
    scores: Scores, batch: Batch, cfg: ObjectiveConfig, trainer: Tensor, advantage: Tensor
) -> tuple[Tensor, TensorStats]:
    """What the policy gradient of each explored token is multiplied by, detached."""
    tokens = batch.on_route("explore")
    seq, logp = batch.seq[tokens], scores.logp[tokens].detach()
    gate = torch.ones_like(logp) if batch.gate is None else batch.gate[tokens].clone()
    stats: TensorStats = {}
    if cfg.gates.entropy_limit:
        calm = answer_mean(scores.entropy[tokens].detach(), seq) <= cfg.gates.entropy_limit
        gate = gate * calm
        stats["entropy_filtered"] = total((~calm).float())
    if cfg.mismatch.active:
        weight = mismatch_weights(trainer, batch.logp_sampler[tokens], logp, advantage, seq, cfg.mismatch)
        gate = gate * weight
        stats |= {"mismatch_weight": total(weight), "mismatch_rejected": total((weight == 0).float())}
    if batch.gate is not None:
        stats["conflict_tokens"] = total((batch.gate[tokens] != 1).float())
    return gate, stats


def _own_term(
    name: str, term: DivergenceConfig, scores: Scores, batch: Batch, cfg: ObjectiveConfig, old: Tensor
) -> tuple[Tensor, Tensor]:
    """The share of a term on the policy's own answers, 0 unless it is wired into the loss, and its metric."""
    tokens = batch.on_route("explore")
    logp = scores.logp[tokens]
    anchor = anchor_logps(name, term, batch, old, tokens)
    weights = _weights(name, term, scores, batch)
    if term.level == "sequence":
        return _answer_term(term, logp, anchor, batch, weights)
    if term.potential:
        return logp.new_zeros(()), total(drawn_value(scores.exact[name][tokens], logp, anchor))
    values = scores.exact[name][tokens] if term.exact else None
    metric = total(own_answers_value(term, logp, anchor) if values is None else values)
    if term.wiring in ("reward", "joint"):
        return logp.new_zeros(()), metric
    shares = reduction_weights(batch, "explore", cfg.reduction_of(term), cfg.constant_length)[tokens]
    if values is None:
        values = own_answers_loss(term, logp, anchor, old)
    return (shares * weights * values).sum(), metric


def _answer_term(
    term: DivergenceConfig, logp: Tensor, anchor: Tensor, batch: Batch, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """A term between whole answers: the mean of its value over the batch's answers, times the weight of the batch."""
    seq = batch.seq[batch.on_route("explore")]
    there = batch.trained_lengths("explore") > 0
    values = answer_value(term, answer_log_ratio(logp, anchor, seq, len(batch.group))[there])
    metric = total(values)
    if term.wiring != "loss":
        return logp.new_zeros(()), metric
    first = weights[0] if len(weights) else weights.new_zeros(())
    return first * values.sum() / max(batch.totals["explore"].trajectories, 1), metric


def _rehearse(
    name: str, term: DivergenceConfig, scores: Scores, batch: Batch, cfg: ObjectiveConfig
) -> tuple[Tensor, Tensor]:
    """The rehearsed share of a term, and its metric: the mean over tokens, whatever the reduction."""
    tokens = batch.on_route("rehearse")
    weights = reduction_weights(batch, "rehearse", cfg.reduction_of(term), cfg.constant_length)[tokens]
    if term.exact:
        token_loss = scores.exact[name][tokens]
    else:
        token_loss = stored_answers_loss(term, scores.logp[tokens], reference_logps(batch, tokens))
    return rehearsal_weight(batch, term) * (weights * token_loss).sum(), total(token_loss)


def _share(batch: Batch, route: Route, tokens: int) -> float:
    """Weight under which the losses of parts, which are sums already, average to the loss of the whole."""
    return tokens / max(batch.totals[route].tokens, 1)
