"""The Learner and Reference roles in this process, for tests, debugging and runs that are repeatable bit for bit.

Blocking work runs in a thread, so that generation and grading continue meanwhile. The transformers generator and the
grader satisfy their contracts as they are.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from actors.contracts import Column, GenerationJob, Generator, HostWeights, Reference, WeightsInfo
from actors.finished import Finished
from actors.learning.learner import FsdpLearner
from actors.learning.rank_parts import end_to_end, merge_columns, plan_scores, plan_updates, with_columns
from actors.presence import Presence, RoleLost
from actors.reference import References
from objectives.diagnostics import Stats
from trajectories.batch import Batch


class LocalGenerator:
    """Generator in this process, which is built again when its engine has ended.

    Args:
        build: builds the generator. The first one is built at once.
    """

    def __init__(self, build: Callable[[], Generator], name: str) -> None:
        self.build, self.name = build, name
        self.generator = build()
        self.local_pid: int | None = None
        """None: there is no process but this one."""

    def give_up(self, reason: str) -> None:
        """Nothing: calls of an engine that has ended raise RoleLost by themselves."""

    async def restart(self) -> None:
        """Close the engine."""
        with contextlib.suppress(Exception):  # it may have ended with any error
            await self.generator.close()

    async def rebuilt(self, timeout_s: float) -> None:
        """Build another engine."""
        self.generator = await asyncio.to_thread(self.build)

    async def alive(self, timeout_s: float) -> None:
        """Return at once: this process is alive."""

    async def submit(self, jobs: Sequence[GenerationJob]) -> None:
        await self.generator.submit(jobs)

    async def collect(self, wait_s: float) -> Finished:
        return await self.generator.collect(wait_s)

    async def init_weights(self, info: WeightsInfo) -> None:
        await self.generator.init_weights(info)

    async def update_weights(self, weights: HostWeights) -> int:
        return await self.generator.update_weights(weights)

    async def close(self) -> None:
        await self.generator.close()


async def init_host_weights(receivers: Presence[Generator], info: WeightsInfo) -> None:
    """Send every generator that is present the names, shapes and dtype of later updates."""
    await receivers.each(lambda generator: generator.init_weights(info))


async def publish_host_weights(receivers: Presence[Generator], weights: Any, version: int, last: bool = True) -> None:
    """Load the same weights into every generator that is present. One that is lost is given them when it is back.

    Args:
        weights: a HostWeights of this version, or a Ray object reference to one.
        last: whether they are all weights, or the last piece, so that the generators must serve the version after it.
    """
    versions = await receivers.each(lambda generator: generator.update_weights(weights))
    assert not last or set(versions) <= {version}, f"generators serve versions {versions}, not {version}"


class Newcomers:
    """Generators that were started again, and wait for the weights of the next publication.

    A learner publishes the version of its last publication again to a newcomer, unless it has changed the weights
    since: then the newcomer waits for the next version.
    """

    def __init__(self) -> None:
        self.version = -1
        """The version published last; -1: none."""
        self.changed = False
        """Whether the weights have changed since."""
        self._published: asyncio.Future[None] | None = None

    def published(self, version: int) -> None:
        """Note that the present generators serve this version."""
        self.version, self.changed = version, False
        if self._published is not None:
            self._published.set_result(None)
            self._published = None

    async def next_publication(self, generator: Generator, receivers: Presence[Generator]) -> None:
        """Return when the next version is published, and this generator serves it.

        Raises:
            RoleLost: it was lost again meanwhile. It serves an older version, or none.
        """
        if self._published is None:
            self._published = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._published)
        if generator not in receivers.present:
            raise RoleLost("the generator was lost again in the publication for which it waited")


class LocalLearner:
    """Learner with one rank, in this process."""

    def __init__(self, learner: FsdpLearner, *, checksum: bool) -> None:
        self.learner, self.checksum = learner, checksum
        self.receivers: Presence[Generator] = Presence([])
        self.newcomers = Newcomers()
        self._at_work = asyncio.Lock()

    async def score(self, batch: Batch) -> Batch:
        return with_columns(batch, await asyncio.to_thread(self._scores, self.learner.score, batch))

    async def score_references(
        self, batch: Batch, names: Sequence[str], columns: Sequence[Column]
    ) -> dict[str, Tensor]:
        return await asyncio.to_thread(self._scores, self.learner.score_references, batch, names, columns)

    def _scores(
        self, method: Callable[..., list[dict[str, Tensor]]], batch: Batch, *arguments: Any
    ) -> dict[str, Tensor]:
        """Score the trajectories of a batch with a method of the learner. Returns its outputs for all, by name."""
        divided, [part] = plan_scores(batch, self.learner.config, 1, self.learner.linear_width())
        return merge_columns(batch, divided, [end_to_end(method(part, *arguments))])

    async def update(self, batch: Batch, coefficients: Mapping[str, float]) -> Stats:
        async with self._at_work:
            self.newcomers.changed = True
            return await asyncio.to_thread(self._update, batch, coefficients)

    def _update(self, batch: Batch, coefficients: Mapping[str, float]) -> Stats:
        [updates] = plan_updates(batch, self.learner.config, 1, self.learner.linear_width())
        return self.learner.update(updates, coefficients)

    async def connect(self, generators: Sequence[Generator]) -> None:
        self.receivers = Presence(generators)
        await init_host_weights(self.receivers, self.learner.weights_info())

    async def publish(self, version: int) -> None:
        async with self._at_work:
            await self._publish(self.receivers, version)
            self.newcomers.published(version)

    async def _publish(self, receivers: Presence[Generator], version: int) -> None:
        weights = await asyncio.to_thread(self.learner.weights, version, self.checksum)
        assert weights is not None
        await publish_host_weights(receivers, weights, version)

    async def join(self, generator: Generator) -> None:
        """Give a generator that was started again the weights that the others serve, or the next that are published."""
        if not await self.publish_again(generator):
            await self.newcomers.next_publication(generator, self.receivers)

    async def publish_again(self, generator: Generator) -> bool:
        """As `RemoteLearner.publish_again`."""
        async with self._at_work:
            await generator.init_weights(self.learner.weights_info())
            if not self.newcomers.changed and self.newcomers.version >= 0:
                await self._publish(Presence([generator]), self.newcomers.version)
            self.receivers.enter(generator)
            return not self.newcomers.changed

    async def update_reference(self, reference: Reference, name: str, mixing_weight: float) -> None:
        weights = await asyncio.to_thread(self.learner.master_weights)
        await reference.move(name, self.learner.master_info(), weights, mixing_weight)

    async def save(self, folder: str) -> None:
        await asyncio.to_thread(self.learner.save, folder)

    async def saved(self) -> None:
        await asyncio.to_thread(self.learner.saved)

    async def load(self, folder: str) -> None:
        await asyncio.to_thread(self.learner.load, folder)

    async def close(self) -> None:
        self.learner.close()


class LocalReference:
    """Reference in this process."""

    def __init__(self, references: References) -> None:
        self.references = references

    async def score(
        self,
        batch: Batch,
        names: Sequence[str] = ("reference",),
        hidden: Sequence[str] = (),
        columns: Sequence[Column] = (),
    ) -> Batch:
        return await asyncio.to_thread(self.references.score, batch, names, hidden, columns)

    async def move(self, name: str, info: WeightsInfo, weights: Any, mixing_weight: float) -> None:
        await asyncio.to_thread(self.references.move, name, info, weights, mixing_weight)

    async def save(self, folder: str) -> None:
        await asyncio.to_thread(self.references.save, folder)

    async def load(self, folder: str) -> None:
        await asyncio.to_thread(self.references.load, folder)

    async def close(self) -> None:
        self.references.close()
