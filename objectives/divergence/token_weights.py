"""Weights on the tokens of a divergence term. All detached; [N] tokens, [B] answers."""

import math

import torch
from torch import Tensor

from configs.term_weights import TermWeightsConfig
from objectives.divergence.steps import step_weights
from objectives.divergence.token_importance import important
from trajectories.batch import Batch


def term_weights(
    batch: Batch,
    advantage: Tensor,
    cfg: TermWeightsConfig,
    *,
    term: str = "divergence",
    log_u: Tensor | None = None,
    shares: Tensor | None = None,
) -> Tensor:
    """float32 [N]: the product of the weights chosen that are decided before the first update; `advantage` [B].

    `term` names the columns of the batch they are made of; `log_u` [M] is log pi_old - log anchor on explored tokens;
    `shares` [N] are the weights of the term's reduction, of which a mask leaves the sum as it is: the term is the mean
    over the tokens kept, and 0 where none is.
    """
    weights = torch.ones(len(batch.group))
    if cfg.difficulty:
        weights = weights * difficulty_weights(batch, advantage)
    if cfg.length_debias:
        weights = weights * length_debias(batch)
    by_token = weights[batch.seq]
    if cfg.certainty_power:
        assert term in batch.certainty, "a divergence needs the certainty of its anchor and the batch has none"
        by_token = by_token * certainty_weights(batch.certainty[term], cfg.certainty_power)
    if cfg.step_limit:
        assert log_u is not None, "the weights of steps need the log-probs of the anchor"
        by_step = torch.ones_like(by_token)
        by_step[batch.on_route("explore")] = step_weights(batch, log_u, cfg.step_limit, cfg.step_length)
        by_token = by_token * by_step
    if cfg.masks:
        assert shares is not None, "a mask needs the weights of the reduction"
        by_token = by_token * mask_weights(_kept(batch, cfg, term), shares)
    return by_token


def _kept(batch: Batch, cfg: TermWeightsConfig, term: str) -> Tensor:
    """bool [N]: the tokens that every mask chosen keeps."""
    kept = batch.on_route("explore")
    if cfg.only != "all":
        kept = kept & (failures(batch, whole_groups=cfg.only == "failed_groups") > 0)[batch.seq]
    if cfg.importance != "none":
        kept = kept & important(batch, cfg, batch.distance.get(term))
    return kept


def mask_weights(kept: Tensor, shares: Tensor) -> Tensor:
    """float32 [N]: 0 off the tokens `kept` [N], and one number on them with which their `shares` [N] add up to those of
    all: explored over kept tokens for a token mean. 0 everywhere where none is kept."""
    whole, left = shares.sum(), shares[kept].sum()
    return kept * (whole / left if left > 0 else whole.new_zeros(()))


def difficulty_weights(batch: Batch, advantage: Tensor) -> Tensor:
    """float32 [B]: APO's DADS, arXiv:2506.21655. 1 - exp(-e (1 - d)) on answers of positive advantage, d the share of
    wrong ones in the group; 1 on the others, and where d is 0 or 1."""
    weights = torch.ones(len(batch.group))
    for members in batch.graded_groups():
        d = 1 - float((batch.reward[members] >= 1).float().mean())
        if 0 < d < 1:
            weights[members & (advantage > 0)] = 1 - math.exp(-math.e * (1 - d))
    return weights


def failures(batch: Batch, whole_groups: bool) -> Tensor:
    """float32 [B]: KDRL's masks, arXiv:2506.02208. 1 on answers that are not correct, or on all answers of groups
    without a correct one; 0 elsewhere."""
    weights = torch.zeros(len(batch.group))
    for members in batch.graded_groups():
        failed = members & ~(batch.reward >= 1)
        if not whole_groups:
            weights[failed] = 1.0
        elif bool((failed == members).all()):
            weights[members] = 1.0
    return weights


def length_debias(batch: Batch) -> Tensor:
    """float32 [B]: SamPO, arXiv:2406.10957, by its mean. The length of the group's shortest answer over the answer's
    own, so that a sum over tokens is as long for every answer of the group."""
    lengths = batch.trained_lengths("explore").float()
    weights = torch.ones(len(batch.group))
    for members in batch.graded_groups():
        there = members & (lengths > 0)
        if there.any():
            weights[there] = lengths[there].min() / lengths[there]
    return weights


def entropy_weights(entropy: Tensor, log_vocabulary: float, power: float) -> Tensor:
    """[N]: (H / log V)^power, by the policy's own entropy: what is certain already is left alone."""
    return (entropy.detach() / log_vocabulary).clamp(0, 1) ** power


def certainty_weights(certainty: Tensor, power: float) -> Tensor:
    """[N]: J^power of the prioritised KL, arXiv:2502.06533: where the anchor was sure it holds, elsewhere it lets go.

    Large powers are meant: 0.9999^150 is 0.985, and 0.97^150 is 0.01.
    """
    return certainty**power
