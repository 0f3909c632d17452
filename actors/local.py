"""The roles in this process: the same contracts as over Ray, for tests, debugging and bit-for-bit repeatable runs."""

import asyncio
from collections.abc import Sequence
from typing import Any

from actors.contracts import Generator, WeightsInfo
from actors.learner import FsdpLearner, plan_updates
from actors.reference import FrozenReference
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

    async def update(self, batch: Batch, coefficient: float) -> Stats:
        [updates] = plan_updates(batch, self.learner.config, 1)
        return await asyncio.to_thread(self.learner.update, updates, coefficient)

    async def connect(self, generators: Sequence[Generator]) -> None:
        self.generators = list(generators)
        await connect_by_host(self.generators, self.learner.weights_info())

    async def publish(self, version: int) -> None:
        weights = await asyncio.to_thread(self.learner.weights, version, self.checksum)
        assert weights is not None
        await publish_by_host(self.generators, weights, version)

    async def save(self, folder: str) -> None:
        await asyncio.to_thread(self.learner.save, folder)

    async def load(self, folder: str) -> None:
        await asyncio.to_thread(self.learner.load, folder)

    async def close(self) -> None:
        self.learner.close()


class LocalReference:
    def __init__(self, reference: FrozenReference) -> None:
        self.reference = reference

    async def score(self, batch: Batch) -> Batch:
        return await asyncio.to_thread(self.reference.score, batch)

    async def close(self) -> None:
        pass
