"""References over Ray: the proxy on the driver that divides a batch among any number of actors."""

import asyncio
from collections.abc import Sequence
from typing import Any

from actors import reference_parts
from actors.contracts import Column, WeightsInfo
from actors.remote import Handle
from trajectories.arrays import to_tensors
from trajectories.batch import Batch


class RemoteReference:
    """Any number of Ray actors that all hold the same policies. Each scores a part of the batch's trajectories.

    Every call waits until the actors have loaded the policies.
    """

    def __init__(self, handles: Sequence[Handle], start_timeout_s: float) -> None:
        self.handles, self.start_timeout_s = list(handles), start_timeout_s

    async def started(self) -> None:
        """Wait until all actors have loaded the policies. Raises as `Handle.wait`."""
        await asyncio.gather(*(handle.started(self.start_timeout_s) for handle in self.handles))

    async def score(
        self,
        batch: Batch,
        names: Sequence[str] = ("reference",),
        hidden: Sequence[str] = (),
        columns: Sequence[Column] = (),
    ) -> Batch:
        await self.started()
        parts, batches = await asyncio.to_thread(reference_parts.split, batch, len(self.handles))
        calls = [
            handle.call_stored("score", part, list(names), list(hidden), list(columns))
            for handle, part in zip(self.handles, batches, strict=False)
        ]
        scored = await asyncio.gather(*calls)
        return await asyncio.to_thread(lambda: reference_parts.merge(batch, parts, list(map(to_tensors, scored))))

    async def move(self, name: str, info: WeightsInfo, weights: Any, mixing_weight: float) -> None:
        await self.started()
        await asyncio.gather(*(handle.call("move", name, info, weights, mixing_weight) for handle in self.handles))

    async def save(self, folder: str) -> None:
        await self.started()
        await self.handles[0].call("save", folder)

    async def load(self, folder: str) -> None:
        await self.started()
        await asyncio.gather(*(handle.call("load", folder) for handle in self.handles))

    async def close(self) -> None:
        await asyncio.gather(*(handle.close() for handle in self.handles))
