"""Per-token weights of a divergence term, all detached. N tokens of the batch, B trajectories."""

import math

import torch
from torch import Tensor

from configs.term_weights import TermWeightsConfig
from objectives.advantage.estimators import best_answers
from objectives.divergence.steps import step_weights
from objectives.divergence.token_importance import important
from trajectories.batch import Batch


def token_weights(
    batch: Batch,
    advantage: Tensor,
    cfg: TermWeightsConfig,
    *,
    term: str = "divergence",
    log_u: Tensor | None = None,
    reduction: Tensor | None = None,
) -> Tensor:
    """Return the product of the chosen weights that are known before the first update, float32 [N].

    Args:
        advantage: float32 [B].
        term: name of the term, under which the batch holds certainties and distances.
        log_u: float32 [M], log pi_old - log anchor on the explored tokens.
        reduction: float32 [N], weights of the term's loss aggregation. A mask keeps their sum, so that the term is the
            mean over the kept tokens (0 if none is kept).
    """
    weights = torch.ones(len(batch.group))
    if cfg.difficulty:
        weights = weights * difficulty_weights(batch, advantage)
    if cfg.length_debias:
        weights = weights * length_debias(batch)
    if cfg.only == "best_answers":
        weights = weights * best_answers(batch.reward, batch.group)
    by_token = weights[batch.seq]
    if cfg.certainty_power:
        assert term in batch.certainty, "a divergence needs the certainty of its anchor and the batch has none"
        by_token = by_token * certainty_weights(batch.certainty[term], cfg.certainty_power)
    if cfg.step_limit:
        assert log_u is not None, "step weights need the log-probs of the anchor"
        by_step = torch.ones_like(by_token)
        by_step[batch.on_route("explore")] = step_weights(batch, log_u, cfg.step_limit, cfg.step_length)
        by_token = by_token * by_step
    if cfg.masks:
        assert reduction is not None, "a mask needs the weights of the loss aggregation"
        by_token = by_token * mask_weights(_kept(batch, cfg, term), reduction)
    return by_token


def _kept(batch: Batch, cfg: TermWeightsConfig, term: str) -> Tensor:
    """Return the tokens that all chosen masks keep, bool [N]."""
    kept = batch.on_route("explore")
    if cfg.only in ("failed_answers", "failed_groups"):
        kept = kept & (failures(batch, whole_groups=cfg.only == "failed_groups") > 0)[batch.seq]
    if cfg.only == "mastered_groups":
        kept = kept & mastered(batch)[batch.seq]
    if cfg.importance != "none":
        kept = kept & important(batch, cfg, batch.distance.get(term))
    return kept


def mask_weights(kept: Tensor, reduction: Tensor) -> Tensor:
    """Return one constant on the tokens `kept` [N] and 0 elsewhere, float32 [N]; all 0 if none is kept.

    The constant keeps the sum of the `reduction` weights [N]: for a token mean it is explored over kept tokens.
    """
    total, remaining = reduction.sum(), reduction[kept].sum()
    return kept * (total / remaining if remaining > 0 else total.new_zeros(()))


def difficulty_weights(batch: Batch, advantage: Tensor) -> Tensor:
    """Return difficulty-adaptive weights, float32 [B].

    1 - exp(-e (1 - d)) on answers of positive advantage, where d is the fraction of wrong answers in the group; 1 on
    all others, and where d is 0 or 1. Source: DADS of APO, arXiv:2506.21655.
    """
    weights = torch.ones(len(batch.group))
    for members in batch.graded_groups():
        d = 1 - float((batch.reward[members] >= 1).float().mean())
        if 0 < d < 1:
            weights[members[advantage[members] > 0]] = 1 - math.exp(-math.e * (1 - d))
    return weights


def failures(batch: Batch, whole_groups: bool) -> Tensor:
    """Return 1 on wrong answers, or on all answers of groups without a correct one, and 0 elsewhere, float32 [B].

    Source: KDRL's reward-guided masks, arXiv:2506.02208.
    """
    weights = torch.zeros(len(batch.group))
    for members in batch.graded_groups():
        failed = ~(batch.reward[members] >= 1)
        if not whole_groups:
            weights[members[failed]] = 1.0
        elif bool(failed.all()):
            weights[members] = 1.0
    return weights


def mastered(batch: Batch) -> Tensor:
    """Return which answers are of a group whose graded answers are all right, bool [B]. Source: MCPO,
    arXiv:2604.16972."""
    found = torch.zeros(len(batch.group), dtype=torch.bool)
    for members in batch.graded_groups():
        found[members] = (batch.reward[members] >= 1).all()
    return found


def length_debias(batch: Batch) -> Tensor:
    """Return the length of the group's shortest answer over the answer's own length, float32 [B].

    A sum over tokens then counts equally many tokens of every answer in the group. Source: SamPO, arXiv:2406.10957,
    whose random down-sampling has this expectation.
    """
    lengths = batch.trained_lengths("explore").float()
    weights = torch.ones(len(batch.group))
    for members in batch.graded_groups():
        present = members[lengths[members] > 0]
        if len(present):
            weights[present] = lengths[present].min() / lengths[present]
    return weights


def entropy_weights(entropy: Tensor, log_vocabulary: float, power: float) -> Tensor:
    """Return (H / log V)^power [M] from the policy's entropy [M]: tokens that are already certain weigh little."""
    return (entropy.detach() / log_vocabulary).clamp(0, 1) ** power


def certainty_weights(certainty: Tensor, power: float) -> Tensor:
    """Return J^power [N]: tokens where the anchor is certain weigh most. Source: prioritised KL, arXiv:2502.06533.

    Powers are large: 0.9999^150 is 0.985, and 0.97^150 is 0.01.
    """
    return certainty**power
