"""The Reference whose policies the learner ranks hold, beside reference actors for the others."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

from actors.contracts import Column, Learner, Reference, WeightsInfo
from actors.reference_parts import label, logps_field, spread, to_score
from trajectories.batch import Batch


class LearnerReference:
    """References that score in a call to all learner ranks. The learner must not be at work on another call.

    Args:
        held: names of the references that the learner holds. They are never updated.
        others: holds the other references; None: there are none.
    """

    def __init__(self, learner: Learner, held: Collection[str], others: Reference | None) -> None:
        self.learner, self.held, self.others = learner, held, others

    async def score(
        self,
        batch: Batch,
        names: Sequence[str] = ("reference",),
        hidden: Sequence[str] = (),
        columns: Sequence[Column] = (),
    ) -> Batch:
        mine = [name for name in names if name in self.held]
        own = [column for column in columns if column.reference in self.held]
        if mine or own:
            indices, part = await asyncio.to_thread(to_score, batch)
            outputs = [logps_field(name) for name in mine] + [label(column) for column in own]
            scored = await self.learner.score_references(part, mine, own) if indices else {}
            batch = await asyncio.to_thread(spread, batch, indices, {name: scored.get(name) for name in outputs})
        names = [name for name in names if name not in self.held]
        columns = [column for column in columns if column.reference not in self.held]
        if not (names or hidden or columns):
            return batch
        return await self._others().score(batch, names, hidden, columns)

    def _others(self) -> Reference:
        assert self.others is not None, "the learner holds all references, and none is updated or sends hidden states"
        return self.others

    async def move(self, name: str, info: WeightsInfo, weights: Any, mixing_weight: float) -> None:
        await self._others().move(name, info, weights, mixing_weight)

    async def save(self, folder: str) -> None:
        await self._others().save(folder)

    async def load(self, folder: str) -> None:
        await self._others().load(folder)

    async def close(self) -> None:
        if self.others is not None:
            await self.others.close()
