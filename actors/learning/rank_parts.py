"""Which rank of the learner does what with a batch, and its answers put together again."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from configs.learner import LearnerConfig
from trajectories.batch import TRAJECTORY_FIELDS, Batch
from trajectories.split import deal, divide, microbatches, partition

Division = list[list[list[int]]]
"""[rank][microbatch]: the trajectories in it."""


def plan_updates(batch: Batch, config: LearnerConfig, ranks: int) -> list[list[list[Batch]]]:
    """What each rank does with a batch: [rank][update][microbatch], the same shape on every rank."""
    updates = [partition(part, ranks, config.token_budget) for part in deal(batch, config.updates_per_batch)]
    return [[update[rank] for update in updates] for rank in range(ranks)]


def plan_scores(batch: Batch, config: LearnerConfig, ranks: int) -> tuple[Division, list[list[Batch]]]:
    """The trajectories, and with them the microbatches, that each rank scores: [rank][microbatch], as many on each."""
    divided = divide(batch, ranks, config.token_budget)
    return divided, microbatches(batch, divided)


def with_scores(batch: Batch, divided: Division, scored: Sequence[Sequence[Mapping[str, Tensor]]]) -> Batch:
    """The batch with what the ranks said of their microbatches, as `FsdpLearner.score` returns it."""
    named = [
        (part, said)
        for parts, rank in zip(divided, scored, strict=True)
        for part, said in zip(parts, rank, strict=True)
        if part  # an empty one stands for a trajectory that another microbatch holds
    ]
    tokens = torch.cat([batch.token_rows(part) for part, _ in named])
    trajectories = torch.tensor([index for part, _ in named for index in part])
    columns: dict[str, Any] = {}
    for name in named[0][1]:
        rows = trajectories if name in TRAJECTORY_FIELDS else tokens
        column = torch.cat([said[name] for _, said in named])
        columns[name] = torch.empty_like(column).index_copy(0, rows, column)
    distance = {name.removeprefix("distance/"): columns.pop(name) for name in list(columns) if "/" in name}
    return replace(batch, **columns, distance=distance)
