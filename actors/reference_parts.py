"""Split a batch among reference actors, and merge what they return.

A reference's outputs are named as their fields of `Batch` are: "logp_reference", or "FIELD/KEY" in a dict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from actors.contracts import Column
from actors.learning.rank_parts import in_order
from trajectories.batch import Batch

READ = ("logp_reference", "anchors", "power")
"""Optional fields of `Batch` that a reference reads. The others are not sent to the actors."""
MAIN = "reference"
"""Name of the reference whose log-probs are `Batch.logp_reference`."""


def split(batch: Batch, actors: int) -> tuple[list[list[int]], list[Batch]]:
    """Return the trajectories that each of at most `actors` actors scores, and the batches that they are sent."""
    parts = [list(range(i, len(batch.route), actors)) for i in range(min(actors, len(batch.route)))]
    reduced = batch.reduced_to(READ)
    return parts, [reduced.select(part) for part in parts]


def logps_field(name: str) -> str:
    """Return the name of a reference's log-probs among its outputs."""
    return "logp_reference" if name == MAIN else f"anchors/{name}"


def outputs(scored: Batch, names: Sequence[str], hidden: Sequence[str], columns: Sequence[Column]) -> dict[str, Tensor]:
    """Return what `Reference.score` with these arguments has computed."""
    found: dict[str, Tensor] = {}
    for name in (*names, *hidden, *(column.reference for column in columns)):
        logps = scored.logp_reference if name == MAIN else scored.anchors[name]
        assert logps is not None
        found[logps_field(name)] = logps
    found |= {f"hidden/{name}": scored.hidden[name] for name in hidden}
    return found | {f"{one.kind}/{one.term}": getattr(scored, one.kind)[one.term] for one in columns}


def merge(batch: Batch, parts: Sequence[Sequence[int]], scored: Sequence[Mapping[str, Tensor]]) -> Batch:
    """Return the batch with the outputs of all actors.

    Args:
        parts: from `split`.
        scored: the `outputs` of each actor.
    """
    for name, column in in_order(batch, parts, scored).items():
        field, _, key = name.partition("/")
        changed: dict[str, Any] = {field: {**getattr(batch, field), key: column} if key else column}
        batch = replace(batch, **changed)
    return batch
