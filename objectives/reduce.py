"""Loss aggregation: the weight of each token's loss in the loss of the whole batch."""

import torch
from torch import Tensor

from configs.terms import Reduction
from trajectories.batch import Batch
from trajectories.trajectory import Route


def reduction_weights(
    batch: Batch, route: Route | tuple[Route, ...], reduction: Reduction, constant_length: int = 0
) -> Tensor:
    """Return the weights whose product with the token losses of `route` sums to its loss, float32 [N]; 0 off the route.

    Several routes have one loss together.

    The denominators are the totals of the whole batch, which every part of it carries, and a trajectory is never split.
    So the losses of any parts sum to the loss of the whole. Trajectories without a trained token are not counted.

    Source: token_mean: DAPO, arXiv:2503.14476; sequence_mean_token_mean: GRPO, arXiv:2402.03300;
    sequence_mean_token_sum: RLOO, arXiv:2402.14740; constant (number of trajectories times `constant_length`): Dr.
    GRPO, arXiv:2503.20783.
    """
    routes = route if isinstance(route, tuple) else (route,)
    trained = batch.on_route(*routes)
    tokens = sum(batch.totals[one].tokens for one in routes)
    trajectories = sum(batch.totals[one].trajectories for one in routes)
    if tokens == 0:
        assert not trained.any(), f"{route}: tokens are trained on but the totals count none"
        return torch.zeros(trained.shape, device=trained.device)
    lengths = torch.bincount(batch.seq[trained], minlength=len(batch.route))
    divisor = torch.ones(lengths.shape, device=lengths.device)  # [B]
    if reduction == "token_mean":
        divisor = divisor * tokens
    elif reduction == "sequence_mean_token_mean":
        divisor = trajectories * lengths.clamp(min=1)
    elif reduction == "sequence_mean_token_sum":
        divisor = divisor * trajectories
    else:
        assert reduction == "constant" and constant_length > 0, f"{reduction} with constant_length {constant_length}"
        divisor = divisor * (trajectories * constant_length)
    return torch.where(trained, (1.0 / divisor)[batch.seq], 0.0)


def answer_mean(values: Tensor, seq: Tensor) -> Tensor:
    """Return on each token the mean of `values` [M] over its answer, given `seq` [M], the answer of each token."""
    answers = int(seq.max()) + 1 if len(seq) else 0
    lengths = torch.bincount(seq, minlength=answers).clamp(min=1)
    return (values.new_zeros(answers).index_add(0, seq, values) / lengths)[seq]


def answer_sum(values: Tensor, seq: Tensor) -> Tensor:
    """Return on each token the sum of `values` [M] over its answer, given `seq` [M], the answer of each token."""
    answers = int(seq.max()) + 1 if len(seq) else 0
    return values.new_zeros(answers).index_add(0, seq, values)[seq]


def sum_by_trajectory(values: Tensor, seq: Tensor, trajectories: int) -> Tensor:
    """Return the sum of token `values` [M] over each trajectory [B]; 0 for one without a token in `seq` [M]."""
    return values.new_zeros(trajectories).index_add(0, seq, values)
