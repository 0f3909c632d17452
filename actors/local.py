"""The roles in this process: the same contracts as over Ray, for tests, debugging and bit-for-bit repeatable runs."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from actors.contracts import Column, Generator, Reference, WeightsInfo
from actors.learning.learner import FsdpLearner
from actors.learning.rank_parts import plan_scores, plan_updates, with_scores
from actors.reference import References
from objectives.diagnostics import Stats
from trajectories.batch import Batch


async def connect_by_host(generators: Sequence[Generator], info: WeightsInfo) -> None:
    """Tell every generator what the payloads will hold."""
    await asyncio.gather(*(generator.init_weights(info) for generator in generators))


async def publish_by_host(generators: Sequence[Generator], weights: Any, version: int) -> None:
    """Hand every generator the same payload (HostWeights, or a Ray reference to them)."""
    versions = await asyncio.gather(*(generator.update_weights(weights) for generator in generators))
    assert set(versions) == {version}, f"generators serve versions {versions}, not {version}"


class LocalLearner:
    """One learner rank whose work happens in a thread, so that generation and grading go on meanwhile."""

    def __init__(self, learner: FsdpLearner, *, checksum: bool) -> None:
        self.learner, self.checksum = learner, checksum
        self.generators: list[Generator] = []

    async def score(self, batch: Batch) -> Batch:
        divided, [parts] = plan_scores(batch, self.learner.config, 1)
        return with_scores(batch, divided, [await asyncio.to_thread(self.learner.score, parts)])

    async def update(self, batch: Batch, coefficients: Mapping[str, float]) -> Stats:
        [updates] = plan_updates(batch, self.learner.config, 1)
        return await asyncio.to_thread(self.learner.update, updates, coefficients)

    async def connect(self, generators: Sequence[Generator]) -> None:
        self.generators = list(generators)
        await connect_by_host(self.generators, self.learner.weights_info())

    async def publish(self, version: int) -> None:
        weights = await asyncio.to_thread(self.learner.weights, version, self.checksum)
        assert weights is not None
        await publish_by_host(self.generators, weights, version)

    async def lead(self, reference: Reference, name: str, share: float) -> None:
        weights = await asyncio.to_thread(self.learner.weights, 0, False, "float32")
        await reference.move(name, self.learner.weights_info("float32"), weights, share)

    async def save(self, folder: str) -> None:
        await asyncio.to_thread(self.learner.save, folder)

    async def load(self, folder: str) -> None:
        await asyncio.to_thread(self.learner.load, folder)

    async def close(self) -> None:
        self.learner.close()


class LocalReference:
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

    async def move(self, name: str, info: WeightsInfo, weights: Any, share: float) -> None:
        await asyncio.to_thread(self.references.move, name, info, weights, share)

    async def save(self, folder: str) -> None:
        await asyncio.to_thread(self.references.save, folder)

    async def load(self, folder: str) -> None:
        await asyncio.to_thread(self.references.load, folder)

    async def close(self) -> None:
        pass
