"""Sinkhorn distillation: optimal transport between the rows of student and teacher, not between tokens.

SinKD, arXiv:2402.17110. What the paper transports within is a batch; here it is a block of up to 32 successive trained
tokens of one answer, so that the loss depends on no microbatch, order or rank. C tokens of a chunk, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

from configs.terms import DivergenceConfig

BLOCK = 32
"""Trained tokens of one answer whose rows are compared with each other."""
SOFTNESS = 2.0
"""Temperature of the rows, on top of that of sampling."""


def answer_blocks(seq: Tensor) -> tuple[Tensor, Tensor]:
    """int64 [M], [M]: for trained tokens whose answers are `seq` [M], ascending, the place of each in its block and how
    many its block has."""
    lengths = torch.bincount(seq)
    starts = lengths.cumsum(0) - lengths
    within = torch.arange(len(seq), device=seq.device) - starts[seq]
    place = within % BLOCK
    return place, (lengths[seq] - within + place).clamp(max=BLOCK)


def batch_sinkhorn(cfg: DivergenceConfig, logits: Tensor, anchor_logits: Tensor, place: Tensor, size: Tensor) -> Tensor:
    """float32 [C]: sum_j P_ij cost_ij of each row i, whose mean over the rows of a block is the block's loss.

    cost_ij = ||student_i - teacher_j||_1 of the softened rows, P what `iterations` sweeps make of exp(-cost / epsilon)
    with rows and columns adding up to 1. `logits` and `anchor_logits` [C, V] hold whole blocks, `place` and `size` [C]
    are those of `answer_blocks`. The gradient flows through P too: sum P cost leaves out the entropy that P is the
    optimum with, so holding P fixed would be another gradient.
    """
    first = torch.arange(len(place), device=place.device) - place
    whole = (first >= 0) & (first + size <= len(place))
    assert bool(whole.all()), "a chunk must hold whole blocks of an answer"
    student, teacher = (rows.div(SOFTNESS).softmax(-1) for rows in (logits, anchor_logits.detach()))
    cost = _RowDistances.apply(student, teacher, first, size)  # type: ignore[no-untyped-call]
    number = (place == 0).cumsum(0) - 1  # of the block
    sizes = size[place == 0]
    dense = cost.new_zeros(len(sizes), BLOCK, BLOCK).index_put((number, place), cost)
    shares = plan(dense, sizes, cfg.transport.epsilon, cfg.transport.iterations)
    return (shares * dense).sum(-1)[number, place]


def plan(cost: Tensor, sizes: Tensor, epsilon: float, iterations: int) -> Tensor:
    """[blocks, BLOCK, BLOCK]: the rows of exp(-cost / epsilon), then its columns, made to add up to 1, so many times.

    Rows and columns beyond the `sizes` [blocks] are matched with themselves.
    """
    there = torch.arange(BLOCK, device=cost.device) < sizes[:, None]
    inside = there[:, :, None] & there[:, None, :]
    itself = torch.eye(BLOCK, dtype=torch.bool, device=cost.device)
    log_plan = torch.where(inside, -cost / epsilon, torch.where(itself, 0.0, -torch.inf))
    for _ in range(iterations):
        log_plan = log_plan - log_plan.logsumexp(-1, keepdim=True)
        log_plan = log_plan - log_plan.logsumexp(-2, keepdim=True)
    return log_plan.exp()


class _RowDistances(torch.autograd.Function):
    """[C, BLOCK]: L1 distance of each row to the rows of its block, 0 beyond.

    One of the block's rows at a time, forward and backward, so that a few [C, V] exist and not BLOCK of them.
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
    """For each place in a block: the rows whose blocks have it, and the row that is there."""
    reached = [(size > j).nonzero().squeeze(1) for j in range(BLOCK)]
    return [(j, rows, first[rows] + j) for j, rows in enumerate(reached)]
