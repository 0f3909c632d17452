"""Sinkhorn distillation: optimal transport between next-token distributions (rows) of student and teacher.

Source: SinKD, arXiv:2402.17110. The paper transports within a batch. Here it is a block of up to 32 successive trained
tokens of one answer, so that the loss does not depend on microbatches, order or ranks. C tokens of a chunk, V
vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

from configs.terms import TermConfig
from configs.transport import BLOCK

SOFTNESS = 2.0
"""Temperature of the rows, on top of the sampling temperature."""


def answer_blocks(seq: Tensor) -> tuple[Tensor, Tensor]:
    """Return the position of each trained token in its block, and the size of its block: int64 [M] each.

    Args:
        seq: int64 [M], ascending, the answer of each token.
    """
    lengths = torch.bincount(seq)
    starts = lengths.cumsum(0) - lengths
    within = torch.arange(len(seq), device=seq.device) - starts[seq]
    place = within % BLOCK
    return place, (lengths[seq] - within + place).clamp(max=BLOCK)


def batch_sinkhorn(cfg: TermConfig, logits: Tensor, anchor_logits: Tensor, place: Tensor, size: Tensor) -> Tensor:
    """Return sum_j P_ij cost_ij of each row i [C], with gradient; the loss of a block is its mean over the rows.

    cost_ij = ||student_i - teacher_j||_1 of the softened rows. P is exp(-cost / epsilon) after `iterations` Sinkhorn
    sweeps, with rows and columns that sum to 1. The gradient flows through P too: P is the optimum of the cost plus an
    entropy, and the loss leaves the entropy out, so holding P fixed would give another gradient.

    Args:
        logits, anchor_logits: float32 [C, V], whole blocks; place, size: int64 [C], from `answer_blocks`.
    """
    first = torch.arange(len(place), device=place.device) - place
    whole = (first >= 0) & (first + size <= len(place))
    assert bool(whole.all()), "a chunk must hold whole blocks of an answer"
    student, teacher = (rows.div(SOFTNESS).softmax(-1) for rows in (logits, anchor_logits.detach()))
    cost = _RowDistances.apply(student, teacher, first, size)  # type: ignore[no-untyped-call]
    number = (place == 0).cumsum(0) - 1  # of the block
    sizes = size[place == 0]
    dense = cost.new_zeros(len(sizes), BLOCK, BLOCK).index_put((number, place), cost)
    transport = plan(dense, sizes, cfg.transport.epsilon, cfg.transport.iterations)
    return (transport * dense).sum(-1)[number, place]


def plan(cost: Tensor, sizes: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Normalise the rows, then the columns of exp(-cost / epsilon) to sum 1, `iterations` times.

    Args:
        cost: float32 [blocks, BLOCK, BLOCK]; sizes: int64 [blocks]. Rows and columns beyond a size are matched with
            themselves.
    """
    used = torch.arange(BLOCK, device=cost.device) < sizes[:, None]
    inside = used[:, :, None] & used[:, None, :]
    itself = torch.eye(BLOCK, dtype=torch.bool, device=cost.device)
    log_plan = torch.where(inside, -cost / epsilon, torch.where(itself, 0.0, -torch.inf))
    for _ in range(iterations):
        log_plan = log_plan - log_plan.logsumexp(-1, keepdim=True)
        log_plan = log_plan - log_plan.logsumexp(-2, keepdim=True)
    return log_plan.exp()


class _RowDistances(torch.autograd.Function):
    """L1 distance of each row to the rows of its block [C, BLOCK], 0 beyond the block.

    Forward and backward take one row of each block at a time, so that a few tensors [C, V] exist and not BLOCK.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, first: Tensor, size: Tensor) -> Tensor:
        ctx.save_for_backward(student, teacher, first, size)
        distances = student.new_zeros(len(student), BLOCK)
        for j, rows, partners in _pairs(first, size):
            distances[rows, j] = (student[rows] - teacher[partners]).abs().sum(-1)
        return distances

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        student, teacher, first, size = ctx.saved_tensors
        by_student = torch.zeros_like(student)
        for j, rows, partners in _pairs(first, size):
            by_student[rows] += gradients[0][rows, j, None] * (student[rows] - teacher[partners]).sign()
        return by_student, None, None, None


def _pairs(first: Tensor, size: Tensor) -> list[tuple[int, Tensor, Tensor]]:
    """Return, for each position in a block, the rows whose blocks have that position, and the row at it."""
    reached = [(size > j).nonzero().squeeze(1) for j in range(BLOCK)]
    return [(j, rows, first[rows] + j) for j, rows in enumerate(reached)]
