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
from trajectories.split import Microbatches, deal, divide, microbatches, partition

READ_BY_SCORE = ("power",)
"""Optional fields of `Batch` that `FsdpLearner.score` reads. The others are not sent to the ranks."""
READ_BY_UPDATE = (
    *("logp_old", "logp_reference", "anchors", "value_old", "power", "reweighted", "advantage", "in_loss"),
    *("value_target", "gate", "high_covariance", "term_weights"),
)
"""Optional fields of `Batch` that `FsdpLearner.update` reads; `credit` alone reads the others."""

Division = list[list[list[int]]]
"""[context group][microbatch]: indices of its trajectories in the batch."""


def plan_updates(
    batch: Batch, config: LearnerConfig, ranks: int, linear_width: float = 0.0
) -> list[list[Microbatches]]:
    """Split a batch into optimizer updates, and each update into microbatches per rank.

    Args:
        linear_width: of the policy; 0: no prefixes are shared.

    Returns:
        Rank parts [rank][update], as many updates and microbatches on every rank.
    """
    context = config.context_parallel
    dealt = deal(batch.reduced_to(READ_BY_UPDATE), config.updates_per_batch)
    updates = [partition(part, ranks // context, config.token_budget, linear_width) for part in dealt]
    return [[update[rank // context] for update in updates] for rank in range(ranks)]


def plan_scores(
    batch: Batch, config: LearnerConfig, ranks: int, linear_width: float = 0.0
) -> tuple[Division, list[Microbatches]]:
    """Split a batch into microbatches per rank, to be scored.

    Args:
        linear_width: of the policy; 0: no prefixes are shared.

    Returns:
        The division among the context groups, for `merge_columns`, and the rank parts, as many microbatches on every
        rank.
    """
    context = config.context_parallel
    divided = divide(batch, ranks // context, config.token_budget, linear_width)
    rank_parts = microbatches(batch.reduced_to(READ_BY_SCORE), divided)
    return divided, [rank_parts[rank // context] for rank in range(ranks)]


def end_to_end(outputs: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Join the outputs of all microbatches of one rank."""
    return {name: torch.cat([output[name] for output in outputs]) for name in outputs[0]}


def merge_columns(batch: Batch, divided: Division, scored: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Put the ranks' outputs back in the order of the batch, by name.

    Args:
        divided: the division from `plan_scores`.
        scored: outputs of `FsdpLearner.score` or `score_references`, those of each rank `end_to_end`.
    """
    # All ranks of a context group have its outputs. An empty microbatch repeats a trajectory of another one, behind all
    # others of its rank: its outputs are left out.
    of_groups = scored[:: len(scored) // len(divided)]
    return in_order(batch, [[i for part in rank_part for i in part] for rank_part in divided], of_groups)


def with_columns(batch: Batch, columns: Mapping[str, Tensor]) -> Batch:
    """Return the batch with columns in the fields they are named after; "FIELD/KEY" in that entry of a table."""
    for name, column in columns.items():
        field, _, key = name.partition("/")
        changed: dict[str, Any] = {field: {**getattr(batch, field), key: column} if key else column}
        batch = replace(batch, **changed)
    return batch


def in_order(
    batch: Batch, parts: Sequence[Sequence[int]], outputs: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Merge the outputs of several processes in the order of the batch, by name.

    Args:
        parts: the trajectories of each process, which together are those of the batch.
        outputs: of each process, per token or, if named after a field of trajectories, per trajectory. What lies behind
            the outputs of its trajectories is left out.
    """
    trajectories = torch.tensor([i for part in parts for i in part])
    tokens = batch.token_rows(trajectories.tolist())
    sizes = [int(batch.lengths[torch.tensor(part, dtype=torch.long)].sum()) for part in parts]
    merged = {}
    for name in outputs[0]:
        whole = name in TRAJECTORY_FIELDS
        counts = [len(part) for part in parts] if whole else sizes
        column = torch.cat([output[name][:count] for output, count in zip(outputs, counts, strict=True)])
        merged[name] = torch.empty_like(column).index_copy(0, trajectories if whole else tokens, column)
    return merged
