"""The learner over Ray: the proxy on the driver that calls all learner ranks."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from actors.contracts import Column, Generator, HostWeights, Reference, SharedMemory
from actors.learning.rank_parts import merge_columns, plan_scores, plan_updates, with_columns
from actors.local import Newcomers, init_host_weights, publish_host_weights
from actors.presence import Presence
from actors.remote import Handle, RemoteGenerator
from actors.weights.watch import watched
from configs.learner import LearnerConfig
from objectives.diagnostics import Stats, merge
from trajectories.arrays import to_tensors
from trajectories.batch import Batch


class RemoteLearner:
    """All learner ranks, each a `batch_shells.LearnerShell`. Every call runs on every rank, since each may contain a
    collective.

    Args:
        publish_timeout_s: longest publication, in seconds.
    """

    def __init__(
        self,
        ranks: Sequence[Handle],
        config: LearnerConfig,
        *,
        transfer: str,
        tensor_parallel: int,
        checksum: bool,
        publish_timeout_s: float,
    ) -> None:
        self.publish_timeout_s = publish_timeout_s
        self.ranks, self.config, self.transfer = list(ranks), config, transfer
        self.tensor_parallel, self.checksum = tensor_parallel, checksum
        self.receivers: Presence[Generator] = Presence([])
        self.newcomers = Newcomers()
        self._at_work = asyncio.Lock()
        """Held in every call that may contain a collective: two at once could run in another order on each rank."""
        self._in_group: list[Generator] = []
        """Members of the transfer group from GPU to GPU."""
        self.shared = False
        """Whether all generators read the weights from the memory of rank 0, as they run on its node."""
        self.written = False
        """Whether training itself writes each version into that memory, so that rank 0 has nothing to do."""
        self.pieces = 0
        """Pieces of the weights that go through Ray's object store, if the generators are not all `shared`."""
        self._memory: SharedMemory | None = None
        self.version_in_transfer: int | None = None
        self._width: float | None = None

    async def _linear_width(self) -> float:
        """Return the policy's `linear_width`, asked of rank 0 once."""
        if self._width is None:
            self._width = await self.ranks[0].call("linear_width")
        return self._width

    async def _all(self, method: str, *arguments: Any, timeout_s: float | None = None) -> list[Any]:
        return list(await asyncio.gather(*(rank.call(method, *arguments, timeout_s=timeout_s) for rank in self.ranks)))

    async def _gathered(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        """Have every rank gather weights. Returns the Ray object reference to those of rank 0: receivers read them
        from Ray's object store, which is shared memory on one node, and they do not pass through the driver."""
        rank, first = self.ranks[0], self.ranks[0].send(method, *arguments)
        others = [other.call(method, *arguments, timeout_s=timeout_s) for other in self.ranks[1:]]
        await asyncio.gather(rank.computed(first, method, timeout_s), *others)
        return first

    async def score(self, batch: Batch) -> Batch:
        return with_columns(batch, await self._scores("score", batch))

    async def score_references(
        self, batch: Batch, names: Sequence[str], columns: Sequence[Column]
    ) -> dict[str, Tensor]:
        return await self._scores("score_references", batch, list(names), list(columns))

    async def _scores(self, method: str, batch: Batch, *arguments: Any) -> dict[str, Tensor]:
        """Have the ranks score the trajectories of a batch with a method. Returns its outputs for all, by name."""
        width = await self._linear_width()
        divided, parts = await asyncio.to_thread(plan_scores, batch, self.config, len(self.ranks), width)
        async with self._at_work:
            calls = [rank.call_stored(method, part, *arguments) for rank, part in zip(self.ranks, parts, strict=True)]
            scored = await asyncio.gather(*calls)
        return await asyncio.to_thread(lambda: merge_columns(batch, divided, list(map(to_tensors, scored))))

    async def update(self, batch: Batch, coefficients: Mapping[str, float]) -> Stats:
        self._require_no_transfer()
        width = await self._linear_width()
        parts = await asyncio.to_thread(plan_updates, batch, self.config, len(self.ranks), width)
        async with self._at_work:
            self.newcomers.changed = True
            each = zip(self.ranks, parts, strict=True)
            return merge(
                *await asyncio.gather(*(rank.call_stored("update", part, coefficients) for rank, part in each))
            )

    async def connect(self, generators: Sequence[Generator]) -> None:
        self.receivers = Presence(generators)
        if self.transfer == "host":
            await init_host_weights(self.receivers, await self.ranks[0].call("weights_info"))
            await self._share()
        else:
            await self._init_transfer(self.receivers.present)

    async def _init_transfer(self, generators: Sequence[Generator]) -> None:
        """Set up the transfer group of these generators, in place of any other."""
        address = await self.ranks[0].wait(self.ranks[0].actor.address.remote(), "address")
        actors = {receiver.name: receiver.actor for receiver in _remote(generators)}
        limit_s = self.publish_timeout_s
        starts = [
            rank.actor.init_transfer.remote(actors, self.transfer, self.tensor_parallel, address, limit_s)
            for rank in self.ranks
        ]
        await asyncio.gather(*(r.wait(s, "init_transfer") for r, s in zip(self.ranks, starts, strict=True)))
        self._in_group = list(generators)

    async def _share(self) -> None:
        """Have all generators map the memory of rank 0's weights, if they can."""
        self._memory = await self.ranks[0].call("share_weights")
        handles = _remote(self.receivers.members)
        if self._memory is not None and len(handles) == len(self.receivers.members):
            attached = await asyncio.gather(*(handle.call("attach_weights", self._memory) for handle in handles))
            self.shared = all(attached)
            self.written = self._memory.holds_parameters and not self.checksum
        if not self.shared:
            await self._detach()

    async def _detach(self) -> None:
        """Have the generators get pieces of the weights through Ray's object store."""
        self.shared = False
        if self._memory is not None:
            await asyncio.gather(*(handle.call("detach_weights") for handle in _remote(self.receivers.present)))
        self.pieces = await self.ranks[0].call("weights_pieces")

    async def publish(self, version: int) -> None:
        self._require_no_transfer()
        async with self._at_work:
            self.version_in_transfer = version
            await self._publish(self.receivers, version)
            # Not after a failure: a generator may still be reading.
            self.version_in_transfer = None
            self.newcomers.published(version)

    async def _publish(self, receivers: Presence[Generator], version: int) -> None:
        """Publish to the generators that are present."""
        if self.transfer == "host":
            await self._publish_from_host(receivers, version)
        elif receivers.present:
            if receivers.present != self._in_group:  # a collective with a lost generator would never end
                await self._init_transfer(receivers.present)
            sends = [rank.wait(rank.actor.send_weights.remote(version), "publish") for rank in self.ranks]
            await watched(sends, _remote(receivers.present), version, self.publish_timeout_s)

    def _require_no_transfer(self) -> None:
        version = self.version_in_transfer
        assert version is None, f"version {version} is being loaded, and must not change meanwhile"

    async def _publish_from_host(self, receivers: Presence[Generator], version: int) -> None:
        """Publish from the memory of rank 0; or, if a generator runs on another node, through Ray's object store, which
        holds one piece at a time. The limit on the time is that of each piece."""
        limit_s = self.publish_timeout_s
        if self.shared and self.written:
            weights: Any = HostWeights(version=version)
        elif self.shared:
            weights, *_ = await self._all("weights", version, self.checksum, False, timeout_s=limit_s)
        if self.shared:
            await publish_host_weights(receivers, weights, version)
            return
        for number in range(self.pieces):
            weights = await self._gathered("weights_piece", number, version, self.checksum, timeout_s=limit_s)
            await publish_host_weights(receivers, weights, version, last=number + 1 == self.pieces)
            del weights  # the store holds it as long as there is a reference to it

    async def join(self, generator: Generator) -> None:
        """Give a generator that was started again the weights that the others serve, or the next that are published."""
        if not await self.publish_again(generator):
            await self.newcomers.next_publication(generator, self.receivers)

    async def publish_again(self, generator: Generator) -> bool:
        """Publish the last version to a generator that was started again, which gets later ones too.

        From GPU to GPU all generators get it again, as the transfer group is set up with the new member.

        Returns:
            False if the weights have changed since, so that it has none yet.
        """
        async with self._at_work:
            if self.transfer == "host":
                await self._join_host(generator)
            self._in_group = []  # its process is another one than that in the group
            self.receivers.enter(generator)
            try:
                if not self.newcomers.changed and self.newcomers.version >= 0:
                    alone = Presence([generator]) if self.transfer == "host" else self.receivers
                    await self._publish(alone, self.newcomers.version)
            except BaseException:
                self.receivers.leave(generator)
                raise
            return not self.newcomers.changed

    async def _join_host(self, generator: Generator) -> None:
        await generator.init_weights(await self.ranks[0].call("weights_info"))
        if self.shared:
            [handle] = _remote([generator])
            if not await handle.call("attach_weights", self._memory):
                await self._detach()

    async def update_reference(self, reference: Reference, name: str, mixing_weight: float) -> None:
        info = await self.ranks[0].call("master_info")
        async with self._at_work:
            weights = await self._gathered("master_weights")
        await reference.move(name, info, weights, mixing_weight)

    async def save(self, folder: str) -> None:
        async with self._at_work:
            await self._all("save", folder)

    async def saved(self) -> None:
        await self._all("saved")

    async def load(self, folder: str) -> None:
        async with self._at_work:
            await self._all("load", folder)

    async def close(self) -> None:
        await asyncio.gather(*(rank.close() for rank in self.ranks))


def _remote(generators: Sequence[Generator]) -> list[RemoteGenerator]:
    return [generator for generator in generators if isinstance(generator, RemoteGenerator)]
