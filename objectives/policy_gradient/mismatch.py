"""Importance weights for an engine whose probabilities differ from the learner's: k = pi_old / pi_sampler, detached.

Names and limits are those of verl, OpenRLHF and TRL. A rejected token or answer stays in the denominators of the loss,
so that the loss of the others does not depend on it.
"""

import math

import torch
from torch import Tensor

from configs.policy_gradient import MismatchConfig
from objectives.policy_gradient.ratios import LOG_RATIO_LIMIT
from objectives.reduce import answer_mean, answer_sum


@torch.no_grad()
def mismatch_weights(
    logp_old: Tensor, logp_sampler: Tensor, logp_learner: Tensor, advantage: Tensor, seq: Tensor, cfg: MismatchConfig
) -> Tensor:
    """Return the weight on the policy gradient of each token [M]; `seq` [M] is the answer of each token."""
    log_k = (logp_old - logp_sampler).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    weights = _weights(log_k, seq, cfg)
    if cfg.veto:
        vetoed = (log_k < math.log(cfg.veto)).to(log_k.dtype)
        weights = weights * (answer_sum(vetoed, seq) == 0)
    if cfg.off_policy:
        # The mean over the answer: divergence terms in the advantage give its tokens different signs.
        drifted = answer_mean(logp_sampler - logp_learner, seq) > cfg.off_policy
        weights = weights * ~(drifted & (answer_mean(advantage, seq) < 0))
    return weights


def _weights(log_k: Tensor, seq: Tensor, cfg: MismatchConfig) -> Tensor:
    if cfg.kind == "none":
        return torch.ones_like(log_k)
    if cfg.kind in ("token_truncate", "token_mask"):
        k = log_k.exp()
        return k.clamp(max=cfg.high) if cfg.kind == "token_truncate" else k * _inside(k, cfg)
    if cfg.kind in ("sequence_truncate", "sequence_mask"):
        k = answer_sum(log_k, seq).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
        return k.clamp(max=cfg.high) if cfg.kind == "sequence_truncate" else k * _inside(k, cfg)
    if cfg.kind == "geometric":
        return _inside(answer_mean(log_k, seq).exp(), cfg).to(log_k.dtype)
    distance = 0.5 * log_k.square() if cfg.kind == "k2" else log_k.expm1() - log_k
    return (answer_mean(distance, seq) <= cfg.high).to(log_k.dtype)


def _inside(k: Tensor, cfg: MismatchConfig) -> Tensor:
    return (k >= cfg.low) & (k <= cfg.high)
