"""Choose the tokens whose update lowers the entropy most, by the covariance of log-prob and advantage.

The choice is made once per step on the whole batch, without a random-number generator: it depends on the trajectories
alone, not on their order or on the split into ranks and microbatches. N tokens of the batch, B trajectories, M explored
tokens. Source: The Entropy Mechanism, arXiv:2505.22617.
"""

import torch
from torch import Tensor

from configs.policy_gradient import CovarianceConfig
from trajectories.batch import Batch

MULTIPLIERS = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
"""The two odd constants of the finaliser of SplitMix64 (doi:10.1145/2660193.2660195), as signed numbers."""
SHIFTS = (30, 27, 31)


def token_covariance(logp: Tensor, advantage: Tensor) -> Tensor:
    """Return (log pi - mean)(A - mean) of each token, float64 [M], with means over these tokens.

    Source: arXiv:2505.22617, section 4.
    """
    logp, advantage = logp.double(), advantage.double()
    return (logp - logp.mean()) * (advantage - advantage.mean())


def high_covariance(batch: Batch, logp_old: Tensor, advantage: Tensor, cfg: CovarianceConfig) -> Tensor:
    """Return the tokens that `objective.covariance` chooses, bool [N].

    clip: `fraction` of the explored tokens, rounded down but at least one, drawn by `hashes` from those with
    a covariance between the two bounds; kl: as many with the highest covariance.

    Args: logp_old: float32 [M], log-probs before the step's first update; advantage: float32 [N].
    """
    explored = batch.on_route("explore").nonzero().squeeze(1)
    chosen = torch.zeros(len(batch.tokens), dtype=torch.bool)
    count = max(int(cfg.fraction * len(explored)), 1) if cfg.fraction else 0
    covariance = token_covariance(logp_old, advantage[explored])
    # Tokens of equal covariance are ordered by their hash too, so that the order of the batch does not decide.
    order = hashes(batch)[explored].argsort(stable=True)
    if cfg.kind == "clip":
        inside = (covariance > cfg.low) & (covariance < cfg.high)
        order = order[inside[order]]
    else:
        order = order[covariance[order].argsort(descending=True, stable=True)]
    chosen[explored[order[:count]]] = True
    return chosen


def hashes(batch: Batch) -> Tensor:
    """Return a hash of each token, int64 [N]: of its trajectory's tokens and weight version, and of its position.

    The weight version changes from step to step, so that a token that is sampled again is drawn anew.
    """
    position = torch.arange(len(batch.tokens)) - batch.starts[batch.seq]
    word = _mixed(_mixed(batch.tokens) + position)
    trajectory = _mixed(torch.zeros_like(batch.version).index_add(0, batch.seq, word)) + batch.version
    return _mixed(_mixed(trajectory)[batch.seq] + position)


def _mixed(values: Tensor) -> Tensor:
    """Return the values, int64, after SplitMix64's finaliser: a bijection whose every output bit depends on all input
    bits. Products wrap around."""
    for shift, multiplier in zip(SHIFTS, (*MULTIPLIERS, 1), strict=True):
        # A logical shift: torch shifts the sign bit in.
        values = (values ^ ((values >> shift) & ((1 << (64 - shift)) - 1))) * multiplier
    return values
