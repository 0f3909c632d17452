"""Look up the anchor log-probs of a divergence term, and compare whole answers with the anchor of the advantage."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from configs.terms import TermConfig
from objectives.reduce import sum_by_trajectory
from trajectories.batch import Batch
from trajectories.trajectory import COMPARED

AS_POLICY = math.inf
"""In the place of a log-prob of an anchor that has nothing to say of a token: that of the policy before the step's
first update, at which a term in the reward wiring is 0."""


def known(logp_anchor: Tensor) -> Tensor:
    """Return `logp_anchor` unchanged. Raise AssertionError if one of its values is missing (NaN)."""
    assert not logp_anchor.isnan().any(), "a divergence term needs logp_reference on tokens where it is missing"
    return logp_anchor


def anchor_logps(name: str, term: TermConfig, batch: Batch, logp_old: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probs of a term's anchor on the chosen tokens [M], nats.

    Args:
        name: name of the term, under which the batch holds a reweighted anchor.
        logp_old: float32 [M], log-probs under the policy that sampled these tokens.
        tokens: bool [N], the chosen tokens.
    """
    if term.anchor == "old":
        return logp_old
    if term.reweights:
        return batch.reweighted[name][tokens]
    return named_logps(batch, term.anchor, tokens)


def reference_logps(batch: Batch, tokens: Tensor) -> Tensor:
    """Return the log-probs of the main reference on the chosen tokens [M], NaN where they are missing."""
    if batch.logp_reference is not None:
        return batch.logp_reference[tokens]
    assert not tokens.any(), "a divergence term needs logp_reference and the batch has none"
    return batch.logp_sampler.new_zeros(0)


def answer_log_u(batch: Batch, cfg: ObjectiveConfig, mask: Tensor | None = None) -> Tensor | None:
    """Return the log policy / anchor of explored and imitated answers [B], nats, of which the advantage is a function;
    None for an advantage that compares the policy with nothing.

    The policy is that before the step's first update. For advantage=pairs, log anchor is a weighted sum of the
    log-probs of one or two references.

    Args:
        mask: float32 [N], weights of the tokens in log u; None: 1.
    """
    if cfg.advantage not in ("target", "pairs"):
        return None
    log_u = token_log_u(batch, cfg.pairs.anchors if cfg.advantage == "pairs" else {"reference": 1.0})
    return sum_by_trajectory(log_u if mask is None else log_u * mask, batch.seq, len(batch.route))


def token_log_u(batch: Batch, anchors: Mapping[str, float]) -> Tensor:
    """Return log policy / anchor of explored and imitated tokens, float32 [N]; 0 elsewhere.

    Args:
        anchors: exponent of each reference in the anchor.
    """
    tokens = batch.on_route(*COMPARED)
    log_u = logp_before(batch)[tokens]
    for name, weight in anchors.items():
        log_u = log_u - weight * known(named_logps(batch, name, tokens))
    return log_u.new_zeros(len(batch.tokens)).masked_scatter(tokens, log_u)


def logp_before(batch: Batch) -> Tensor:
    """Return the log-probs under the policy before the step's first update [N], or else those of the sampler."""
    return batch.logp_sampler if batch.logp_old is None else batch.logp_old


def named_logps(batch: Batch, name: str, tokens: Tensor) -> Tensor:
    """Return the log-probs of a reference on the chosen tokens [M], NaN where they are missing."""
    if name == "reference":
        return reference_logps(batch, tokens)
    logps = batch.anchors[name][tokens]
    return torch.where(logps == AS_POLICY, logp_before(batch)[tokens], logps)
