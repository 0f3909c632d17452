"""The steps of an answer, and how much each is distilled: SOD, arXiv:2605.07725. M explored tokens of a batch."""

import torch
from torch import Tensor

from trajectories.batch import Batch

EPSILON = 1e-6
"""Nats added to both distances of a ratio, as in the official code."""


def steps_of(batch: Batch, length: int) -> Tensor:
    """int64 [M]: the step of each explored token, counted through the batch.

    A step is a turn: tokens of one answer with nothing else between them. An answer of a single turn is cut into steps
    of `length` tokens, the last one shorter; 0: it is one.
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
    """[M]: min((d_1 + e) / (d_k + e), limit) for the tokens of step k, d_k its mean |log_u|, `log_u` [M] in nats.

    The paper's running product of (d_j + e) / (d_{j + 1} + e), cut at its end and nowhere else, is this quotient.
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
