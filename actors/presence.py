"""Processes of a role of which some may be lost for a while: RoleLost, and Presence, which of them can be used now."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class RoleLost(RuntimeError):
    """A role cannot be used any more: its process died or does not answer, or its engine has ended.

    It may be started again (`orchestrator/supervision/`).
    """


class RoleSilent(RoleLost):
    """A role has not answered in time; its process may be there."""


LOSSES = (RoleLost, TimeoutError)
"""What a call raises when its role is lost. A generator raises TimeoutError if it generates no token."""


class Presence(Generic[T]):
    """The members of a role, used in turn. A call to a member that is lost is made again to another one."""

    def __init__(self, members: Sequence[T]) -> None:
        self.members = list(members)
        self.lost: Callable[[T, Exception], bool] = lambda member, error: False
        """Called with a member that was lost. Returns whether it is started again, or others go on without it."""
        self._absent: set[int] = set()
        self._failure: Exception | None = None
        self._changed = asyncio.Event()
        self._next = 0

    @property
    def present(self) -> list[T]:
        """The members that can be used now."""
        return [member for i, member in enumerate(self.members) if i not in self._absent]

    def leave(self, member: T) -> None:
        """Use a member no more."""
        self._absent.add(self._index(member))

    def enter(self, member: T) -> None:
        """Use a member again."""
        self._absent.discard(self._index(member))
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """Have every later call raise this error, and those that wait for a member."""
        self._failure = self._failure or error
        self._changed.set()

    async def use(self, call: Callable[[T], Awaitable[R]]) -> R:
        """Make a call to the next member, and to another one if that is lost. Wait for one if none is present.

        Raises:
            Exception: what the call raises, or what was passed to `fail`.
        """
        while True:
            member = await self.one()
            try:
                return await call(member)
            except LOSSES as error:
                if not self.lost(member, error):
                    raise

    async def each(self, call: Callable[[T], Awaitable[R]]) -> list[R]:
        """Make a call to every member that is present, to all at once. Return the results of those that were not lost.

        Raises:
            Exception: what the call raises, unless the member is started again or others go on without it.
        """

        async def made(member: T) -> list[R]:
            try:
                return [await call(member)]
            except LOSSES as error:
                if not self.lost(member, error):
                    raise
                self.leave(member)  # a newcomer has not entered elsewhere yet, so that nobody else lets it leave
                return []

        return [result for found in await asyncio.gather(*map(made, self.present)) for result in found]

    async def one(self) -> T:
        """Return the next member that is present, and wait until there is one. Raises what was passed to `fail`."""
        while True:
            if self._failure is not None:
                raise self._failure
            for _ in self.members:
                index, self._next = self._next, (self._next + 1) % len(self.members)
                if index not in self._absent:
                    return self.members[index]
            self._changed.clear()
            await self._changed.wait()

    def _index(self, member: T) -> int:
        return next(i for i, own in enumerate(self.members) if own is member)
