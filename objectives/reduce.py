"""Reductions: the weight each token's loss has in the loss of the whole batch."""

import torch
from torch import Tensor

from configs.objective import Reduction
from configs.terms import DivergenceConfig
from trajectories.batch import Batch
from trajectories.trajectory import Route


def reduction_weights(batch: Batch, route: Route, reduction: Reduction, constant_length: int = 0) -> Tensor:
    """float32 [N]: weights with which the token losses of `route` add up to its loss; 0 off the route.

    Denominators are the global totals that travel with the batch, and a trajectory is never split, so the losses of
    any parts sum to the loss of the whole. Trajectories without a trained token count nowhere. token_mean: DAPO,
    arXiv:2503.14476; sequence_mean_token_mean: GRPO, arXiv:2402.03300; sequence_mean_token_sum: RLOO,
    arXiv:2402.14740; constant, a sum over trajectories times a fixed length: Dr. GRPO, arXiv:2503.20783.
    """
    trained, totals = batch.on_route(route), batch.totals[route]
    if totals.tokens == 0:
        assert not trained.any(), f"{route}: tokens are trained on but the totals count none"
        return torch.zeros(trained.shape, device=trained.device)
    lengths = batch.trained_lengths(route)
    divisor = torch.ones(lengths.shape, device=lengths.device)  # [B]
    if reduction == "token_mean":
        divisor = divisor * totals.tokens
    elif reduction == "sequence_mean_token_mean":
        divisor = totals.trajectories * lengths.clamp(min=1)
    elif reduction == "sequence_mean_token_sum":
        divisor = divisor * totals.trajectories
    else:
        assert reduction == "constant" and constant_length > 0, f"{reduction} with constant_length {constant_length}"
        divisor = divisor * (totals.trajectories * constant_length)
    return torch.where(trained, (1.0 / divisor)[batch.seq], 0.0)


def rehearsal_weight(batch: Batch, term: DivergenceConfig) -> float:
    """What a term on stored answers is multiplied by: 1, or by_answer_share stored over explored answers of the batch.

    The second is the ratio of the official code of DPH-RL (arXiv:2509.07430), which weighs microbatches of either kind
    alike. Without explored answers, to which there would be no ratio, it is 1.
    """
    explored, stored = batch.totals["explore"].trajectories, batch.totals["rehearse"].trajectories
    return stored / explored if term.weighting == "by_answer_share" and explored else 1.0


def answer_mean(values: Tensor, seq: Tensor) -> Tensor:
    """[N]: on each token, the mean of `values` [N] over its answer."""
    answers = int(seq.max()) + 1 if len(seq) else 0
    lengths = torch.bincount(seq, minlength=answers).clamp(min=1)
    return (values.new_zeros(answers).index_add(0, seq, values) / lengths)[seq]


def answer_sum(values: Tensor, seq: Tensor) -> Tensor:
    """[N]: on each token, the sum of `values` [N] over its answer."""
    answers = int(seq.max()) + 1 if len(seq) else 0
    return values.new_zeros(answers).index_add(0, seq, values)[seq]
