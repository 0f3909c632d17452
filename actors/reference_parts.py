"""Split a batch among reference actors, and merge what they return.

A reference's outputs are named as their fields of `Batch` are: "logp_reference", or "FIELD/KEY" in a dict.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from actors.contracts import Column
from actors.learning.rank_parts import in_order, with_columns
from trajectories.batch import Batch
from trajectories.trajectory import COMPARED, ROUTES

READ = ("logp_reference", "anchors", "power")
"""Optional fields of `Batch` that a reference reads. The others are not sent to the actors."""
MAIN = "reference"
"""Name of the reference whose log-probs are `Batch.logp_reference`."""


def split(batch: Batch, actors: int) -> tuple[list[list[int]], list[Batch]]:
    """Return the trajectories that each of at most `actors` actors scores, and the batches that they are sent."""
    parts = [list(range(i, len(batch.route), actors)) for i in range(min(actors, len(batch.route)))]
    reduced = batch.reduced_to(READ)
    return parts, [reduced.select(part) for part in parts]


def label(column: Column) -> str:
    """Return the name of a column among outputs."""
    return f"{column.kind}/{column.term}"


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
    return found | {label(one): getattr(scored, one.kind)[one.term] for one in columns}


def merge(batch: Batch, parts: Sequence[Sequence[int]], scored: Sequence[Mapping[str, Tensor]]) -> Batch:
    """Return the batch with the outputs of all actors.

    Args:
        parts: from `split`.
        scored: the `outputs` of each actor.
    """
    return with_columns(batch, in_order(batch, parts, scored))


def compared(batch: Batch) -> list[int]:
    """Return the trajectories on COMPARED routes."""
    return [i for i, route in enumerate(batch.route.tolist()) if ROUTES[route] in COMPARED]


def to_score(batch: Batch) -> tuple[list[int], Batch]:
    """Return the trajectories on COMPARED routes, and a batch of them with what a reference reads."""
    indices = compared(batch)
    return indices, batch.reduced_to(READ).select(indices)


def unscored(batch: Batch, names: Sequence[str]) -> list[int]:
    """Return the trajectories on COMPARED routes of which one of the references has no log-probs yet."""
    unknown = torch.zeros_like(batch.mask)
    for name in names:
        logps = batch.logp_reference if name == MAIN else batch.anchors.get(name)
        unknown |= torch.ones_like(unknown) if logps is None else logps.isnan()
    lacking = set(batch.seq[unknown].unique().tolist())
    return [i for i in compared(batch) if i in lacking]


def spread(batch: Batch, indices: Sequence[int], columns: Mapping[str, Tensor | None]) -> Batch:
    """Return the batch with the outputs for some of its trajectories. Others keep what they have, or get NaN.

    Args:
        columns: float32 [n], the tokens of these trajectories, by name; None: there are no such trajectories.
    """
    rows, spread_out = batch.token_rows(list(indices)), {}
    for name, values in columns.items():
        field, _, key = name.partition("/")
        known = getattr(batch, field)
        known = known.get(key) if key else known
        column = torch.full_like(batch.logp_sampler, torch.nan) if known is None else known.clone()
        if values is not None:
            column[rows] = values
        spread_out[name] = column
    return with_columns(batch, spread_out)
