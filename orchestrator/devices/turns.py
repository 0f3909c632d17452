"""Turns of engines and learner on GPUs that they share: the engines sleep while learner and references compute."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from actors.contracts import Generator, Learner, Reference


class SleepingGenerator(Generator, Protocol):
    """A generator whose engine can give its GPU memory back."""

    async def sleep(self) -> int:
        """Move the weights to host memory and discard the key-values. Answers in flight stay: their key-values are
        computed again later.

        Returns:
            The number of unfinished answers.
        """
        ...

    async def wake_up(self, tags: list[str]) -> None:
        """Allocate GPU memory again for `weights`, `kv_cache` or both. Decoding goes on when both are there."""
        ...


class GpuRole(Protocol):
    """A learner rank or a reference on a shared GPU."""

    async def free_gpu_memory(self) -> None:
        """Give back the GPU memory that torch keeps for later tensors."""
        ...


class Turns:
    """Who has the memory of the shared GPUs: the engines, or learner and references.

    The engines sleep when learner or references begin to compute. They wake in two stages around a publication, first
    the weights, which it overwrites, and after it the key-value cache, so that the buffers of the publication and the
    cache are never there together. A submission wakes them too.
    """

    def __init__(self, generators: Sequence[SleepingGenerator], others: Sequence[GpuRole]) -> None:
        self.generators, self.others = list(generators), list(others)
        self.asleep = False
        self._lock = asyncio.Lock()

    def apply(self, learner: Learner, reference: Reference | None) -> None:
        """Wrap the methods of the roles, so that each call takes its turn."""
        for owner, method, turn in (
            (learner, "score", self.computing),
            (learner, "update", self.computing),
            (learner, "publish", self.publishing),
            *((generator, "submit", self.generating) for generator in self.generators),
            *(((reference, "score", self.computing),) if reference is not None else ()),
        ):
            _wrap(owner, method, turn)

    @asynccontextmanager
    async def computing(self) -> AsyncIterator[None]:
        """The engines are asleep inside. If they have unfinished answers, they wake at the end."""
        async with self._lock:
            unfinished = 0
            if not self.asleep:
                unfinished = sum(await asyncio.gather(*(generator.sleep() for generator in self.generators)))
                self.asleep = True
            yield
            if unfinished:
                await self._wake("weights", "kv_cache")

    @asynccontextmanager
    async def publishing(self) -> AsyncIterator[None]:
        """The engines have their weights inside, and their key-value cache after it."""
        async with self._lock:
            asleep = self.asleep
            if asleep:
                await self._wake("weights")
            yield
            if asleep:
                await self._wake("kv_cache")

    @asynccontextmanager
    async def generating(self) -> AsyncIterator[None]:
        """The engines are awake inside."""
        async with self._lock:
            if self.asleep:
                await self._wake("weights", "kv_cache")
            yield

    async def _wake(self, *tags: str) -> None:
        await asyncio.gather(*(role.free_gpu_memory() for role in self.others))
        for tag in tags:
            await asyncio.gather(*(generator.wake_up([tag]) for generator in self.generators))
        self.asleep = "kv_cache" not in tags


def _wrap(owner: Any, method: str, turn: Callable[[], AbstractAsyncContextManager[None]]) -> None:
    inner = getattr(owner, method)

    async def wrapped(*arguments: Any, **options: Any) -> Any:
        async with turn():
            return await inner(*arguments, **options)

    setattr(owner, method, wrapped)
