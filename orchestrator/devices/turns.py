"""Turns of engines and learner on GPUs that they share: the engines sleep while learner and references compute."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

from actors.contracts import Generator, Learner, Reference
from actors.presence import LOSSES

R = TypeVar("R")
T = TypeVar("T")


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
        self.lost: Callable[[object, Exception], bool] = lambda role, error: False
        """As in `Presence`. A generator or reference that was lost has no memory to give or to take."""
        self.asleep = False
        self._lock = asyncio.Lock()

    def apply(self, learner: Learner, reference: Reference | None) -> None:
        """Wrap the methods of the roles, so that each call takes its turn."""
        for owner, method, turn in (
            (learner, "score", self.computing),
            (learner, "update", self.computing),
            (learner, "publish", self.publishing),
            (learner, "publish_again", self.publishing),  # and not `join`, which may wait for the next publication
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
                unfinished = sum(await self._each(self.generators, lambda generator: generator.sleep()))
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

    @asynccontextmanager
    async def starting(self, generator: SleepingGenerator) -> AsyncIterator[None]:
        """A generator is started again inside, while nobody else computes or takes memory."""
        async with self._lock:
            await self._free()
            yield
            if self.asleep:
                await generator.sleep()

    async def _each(self, roles: Sequence[R], call: Callable[[R], Awaitable[T]]) -> list[T]:
        """Make a call to each of these roles, and return the results of those that are not lost."""

        async def made(role: R) -> list[T]:
            try:
                return [await call(role)]
            except LOSSES as error:
                if not self.lost(role, error):
                    raise
                return []

        return [result for results in await asyncio.gather(*map(made, roles)) for result in results]

    async def _free(self) -> None:
        await self._each(self.others, lambda role: role.free_gpu_memory())

    async def _wake(self, *tags: str) -> None:
        await self._free()
        for tag in tags:
            await self._each(self.generators, partial(_wake_up, tag))
        self.asleep = "kv_cache" not in tags


async def _wake_up(tag: str, generator: SleepingGenerator) -> None:
    await generator.wake_up([tag])


def _wrap(owner: Any, method: str, turn: Callable[[], AbstractAsyncContextManager[None]]) -> None:
    inner = getattr(owner, method)

    async def wrapped(*arguments: Any, **options: Any) -> Any:
        async with turn():
            return await inner(*arguments, **options)

    setattr(owner, method, wrapped)
