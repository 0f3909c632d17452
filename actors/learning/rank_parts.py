"""Split a batch into the microbatches of each learner rank, and merge the outputs of the ranks.

A rank part is what one rank receives. Every rank part has equally many microbatches: FSDP gathers parameters in each
forward and backward pass, so a rank with fewer passes would leave the others waiting in a collective. The ranks of a
context group (`learner.context_parallel`) receive the same rank part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from configs.learner import LearnerConfig
from trajectories.batch import TRAJECTORY_FIELDS, Batch
from trajectories.split import deal, divide, microbatches, partition

Division = list[list[list[int]]]
"""[context group][microbatch]: indices of its trajectories in the batch."""


def plan_updates(batch: Batch, config: LearnerConfig, ranks: int, linear_width: float = 0.0) -> list[list[list[Batch]]]:
    """Split a batch into optimizer updates, and each update into microbatches per rank.

    Args:
        linear_width: of the policy; 0: no prefixes are shared.

    Returns:
        Rank parts [rank][update][microbatch], as many updates and microbatches on every rank.
    """
    dealt = deal(batch, config.updates_per_batch)
    context = config.context_parallel
    updates = [partition(part, ranks // context, config.token_budget, linear_width) for part in dealt]
    return [[update[rank // context] for update in updates] for rank in range(ranks)]


def plan_scores(
    batch: Batch, config: LearnerConfig, ranks: int, linear_width: float = 0.0
) -> tuple[Division, list[list[Batch]]]:
    """Split a batch into microbatches per rank, to be scored.

    Args:
        linear_width: of the policy; 0: no prefixes are shared.

    Returns:
        The division among the context groups, for `merge_scores`, and the rank parts [rank][microbatch], as many
        microbatches on every rank.
    """
    divided = divide(batch, ranks // config.context_parallel, config.token_budget, linear_width)
    rank_parts = microbatches(batch, divided)
    return divided, [rank_parts[rank // config.context_parallel] for rank in range(ranks)]


def merge_scores(batch: Batch, divided: Division, scored: Sequence[Sequence[Mapping[str, Tensor]]]) -> Batch:
    """Put the ranks' outputs back in the order of the batch.

    Args:
        divided: the division from `plan_scores`.
        scored: outputs of `FsdpLearner.score`, [rank][microbatch].

    Returns:
        The batch with these outputs in the fields they are named after; "distance/TERM" in `distance`.
    """
    context = len(scored) // len(divided)
    outputs = [
        (indices, output)
        for rank_indices, rank_outputs in zip(divided, scored[::context], strict=True)
        for indices, output in zip(rank_indices, rank_outputs, strict=True)
        if indices  # an empty microbatch repeats a trajectory of another one, with its mask cleared
    ]
    tokens = torch.cat([batch.token_rows(indices) for indices, _ in outputs])
    trajectories = torch.tensor([index for indices, _ in outputs for index in indices])
    columns: dict[str, Any] = {}
    for name in outputs[0][1]:
        rows = trajectories if name in TRAJECTORY_FIELDS else tokens
        column = torch.cat([output[name] for _, output in outputs])
        columns[name] = torch.empty_like(column).index_copy(0, rows, column)
    distance = {name.removeprefix("distance/"): columns.pop(name) for name in list(columns) if "/" in name}
    return replace(batch, **columns, distance=distance)
