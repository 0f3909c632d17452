"""References over Ray: the proxy on the driver that divides a batch among any number of actors."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from actors import reference_parts
from actors.contracts import Column, WeightsInfo
from actors.presence import LOSSES, Presence
from actors.remote import Handle
from trajectories.arrays import to_tensors
from trajectories.batch import Batch


class RemoteReference:
    """Any number of Ray actors that all hold the same policies. Each scores a part of the batch's trajectories.

    Every call waits until the actors have loaded the policies. The part of an actor that is lost is scored by another.
    """

    def __init__(self, handles: Sequence[Handle], start_timeout_s: float) -> None:
        self.handles, self.start_timeout_s = list(handles), start_timeout_s
        self.presence = Presence(self.handles)
        self._moved: Any = None
        """Ray's object reference to the weights of the references that have moved. The driver owns the object, so it is
        there when the actor that made it has ended."""
        self._moving = asyncio.Lock()

    async def started(self) -> None:
        """Wait until all actors that are present have loaded the policies. Raises as `Handle.wait`."""
        await asyncio.gather(*(handle.started(self.start_timeout_s) for handle in self.presence.present))

    async def score(
        self,
        batch: Batch,
        names: Sequence[str] = ("reference",),
        hidden: Sequence[str] = (),
        columns: Sequence[Column] = (),
    ) -> Batch:
        parts, batches = await asyncio.to_thread(reference_parts.split, batch, len(self.handles))
        asked = (list(names), list(hidden), list(columns))

        async def scored_by(part: Batch, handle: Handle) -> Any:
            await handle.started(self.start_timeout_s)
            return await handle.call_stored("score", part, *asked)

        scored = await asyncio.gather(*(self.presence.use(partial(scored_by, part)) for part in batches))
        return await asyncio.to_thread(lambda: reference_parts.merge(batch, parts, list(map(to_tensors, scored))))

    async def move(self, name: str, info: WeightsInfo, weights: Any, mixing_weight: float) -> None:
        """As in the contract. An actor that is lost meanwhile gets the result when it is started again (`restore`)."""
        await self._on_all("move", name, info, weights, mixing_weight)

    async def save(self, folder: str) -> None:
        async def save(handle: Handle) -> None:
            await handle.started(self.start_timeout_s)
            await handle.call("save", folder)

        await self.presence.use(save)

    async def load(self, folder: str) -> None:
        await self._on_all("load", folder)

    async def _on_all(self, method: str, *arguments: Any) -> None:
        """Change the weights of all actors alike, and keep the result for those that are started again.

        If every actor is lost in the call, it is made again: one that was started again has the weights before it.
        """

        async def changed(handle: Handle) -> bool:
            try:
                await handle.started(self.start_timeout_s)
                await handle.call(method, *arguments)
            except LOSSES as error:
                if not self.presence.lost(handle, error):
                    raise
                return False
            return True

        while True:
            async with self._moving:
                handles = self.presence.present
                done = await asyncio.gather(*(changed(handle) for handle in handles))
                moved = [handle for handle, whether in zip(handles, done, strict=True) if whether]
                if moved and await self._keep(moved[0]):
                    return
            await self.presence.one()

    async def _keep(self, handle: Handle) -> bool:
        """Have Ray's object store hold the weights that have moved. Return False if the actor is lost."""
        found = handle.send("moved")
        try:
            await handle.computed(found, "moved")
            await handle.alive(self.start_timeout_s)  # else what it computed may be the error that it has ended
        except LOSSES as error:
            if not self.presence.lost(handle, error):
                raise
            return False
        self._moved = found
        return True

    async def restore(self, handle: Handle) -> None:
        """Give an actor that was started again the weights of the references that have moved."""
        async with self._moving:
            if self._moved is not None:
                await handle.call("restore", self._moved)

    async def close(self) -> None:
        await asyncio.gather(*(handle.close() for handle in self.handles))
