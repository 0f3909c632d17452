"""The Learner and Reference roles in this process, for tests, debugging and runs that are repeatable bit for bit.

Blocking work runs in a thread, so that generation and grading continue meanwhile. The transformers generator and the
grader satisfy their contracts as they are.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from actors.contracts import Column, Generator, Reference, WeightsInfo
from actors.learning.learner import FsdpLearner
from actors.learning.rank_parts import end_to_end, merge_columns, plan_scores, plan_updates, with_columns
from actors.reference import References
from objectives.diagnostics import Stats
from trajectories.batch import Batch


async def init_host_weights(generators: Sequence[Generator], info: WeightsInfo) -> None:
    """Send every generator the names, shapes and dtype of later updates."""
    await asyncio.gather(*(generator.init_weights(info) for generator in generators))


async def publish_host_weights(generators: Sequence[Generator], weights: Any, version: int, last: bool = True) -> None:
    """Load the same weights into every generator.

    Args:
        weights: a HostWeights of this version, or a Ray object reference to one.
        last: whether they are all weights, or the last piece, so that the generators must serve the version after it.
    """
    versions = await asyncio.gather(*(generator.update_weights(weights) for generator in generators))
    assert not last or set(versions) == {version}, f"generators serve versions {versions}, not {version}"


class LocalLearner:
    """Learner with one rank, in this process."""

    def __init__(self, learner: FsdpLearner, *, checksum: bool) -> None:
        self.learner, self.checksum = learner, checksum
        self.generators: list[Generator] = []

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
        return await asyncio.to_thread(self._update, batch, coefficients)

    def _update(self, batch: Batch, coefficients: Mapping[str, float]) -> Stats:
        [updates] = plan_updates(batch, self.learner.config, 1, self.learner.linear_width())
        return self.learner.update(updates, coefficients)

    async def connect(self, generators: Sequence[Generator]) -> None:
        self.generators = list(generators)
        await init_host_weights(self.generators, self.learner.weights_info())

    async def publish(self, version: int) -> None:
        weights = await asyncio.to_thread(self.learner.weights, version, self.checksum)
        assert weights is not None
        await publish_host_weights(self.generators, weights, version)

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
        pass
