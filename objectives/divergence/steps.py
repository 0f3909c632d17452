"""Split answers into steps and weight the distillation of each step (SOD, arXiv:2605.07725).

M explored tokens of a batch.
"""

import torch
from torch import Tensor

from trajectories.batch import Batch

EPSILON = 1e-6
"""Nats added to both distances of a ratio, as in the official code."""


def steps_of(batch: Batch, length: int) -> Tensor:
    """Return the step of each explored token, int64 [M], numbered through the batch.

    A step is a turn: adjacent generated tokens of one answer. An answer of a single turn is cut into steps of `length`
    tokens, the last one shorter; with length 0 it is one step.
    """
    rows = batch.on_route("explore").nonzero().squeeze(1)  # [M]
    seq = batch.seq[rows]
    starts = torch.ones_like(rows, dtype=torch.bool)
    starts[1:] = (rows[1:] != rows[:-1] + 1) | (seq[1:] != seq[:-1])
    if length:
        turns = torch.bincount(seq[starts], minlength=len(batch.route))
        turn = starts.cumsum(0) - 1
        place = torch.arange(len(rows), device=rows.device) - starts.nonzero().squeeze(1)[turn]
        starts |= (turns == 1)[seq] & (place % length == 0)
    return starts.cumsum(0) - 1


def step_weights(batch: Batch, log_u: Tensor, limit: float, length: int) -> Tensor:
    """Return min((d_1 + e) / (d_k + e), limit) for the tokens of step k [M], where d_k is the step's mean |log_u|.

    The paper's running product of (d_j + e) / (d_{j + 1} + e), clamped only at its end, equals this quotient.

    Args:
        log_u: float32 [M], nats; limit: largest weight; length: see `steps_of`.
    """
    step, seq = steps_of(batch, length), batch.seq[batch.on_route("explore")]
    if not len(step):
        return log_u
    tokens = torch.bincount(step)
    away = log_u.new_zeros(len(tokens)).index_add(0, step, log_u.abs()) / tokens  # d of each step
    opening = torch.ones_like(seq, dtype=torch.bool)
    opening[1:] = seq[1:] != seq[:-1]
    first = away[step[opening]][opening.cumsum(0) - 1]  # d_1 of each token's answer
    return ((first + EPSILON) / (away[step] + EPSILON)).clamp(max=limit)
