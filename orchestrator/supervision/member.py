"""One process of a role under supervision, and how the run goes on without it and with it again."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from orchestrator.supervision.heartbeats import Answering


class Process(Answering, Protocol):
    """What can be started again: `actors.remote.Handle` over Ray, `actors.local.LocalGenerator` in this process."""

    @property
    def local_pid(self) -> int | None:
        """Its process id; None if it is on another machine, was never built or is this process."""
        ...

    def give_up(self, reason: str) -> None:
        """Have every call that waits for an answer raise RoleLost."""
        ...

    async def restart(self) -> None:
        """End what is left of the process, and start another one. Returns when there was room for it."""
        ...

    async def rebuilt(self, timeout_s: float) -> None:
        """Build its role again, which takes memory of its device."""
        ...


@dataclass(eq=False, kw_only=True)
class Member:
    """One process of a role, and what is called when it is lost and when it is back."""

    role: Literal["generator", "grader", "reference"]
    process: Process
    leave: Callable[[], None]
    """Use it no more. Its unfinished work waits, or others do it."""
    leave_out: Callable[[], None]
    """Expect it no more for now: others do what still waits for it."""
    prepare: Callable[[], Awaitable[object]]
    """Make the role that was built again what it was: weights, verifiers."""
    enter: Callable[[], None]
    """Use it again."""
    fail: Callable[[Exception], None]
    """End the run."""
    least: int = 1
    """Fewest processes of the role with which the run goes on."""
    turn: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext
    """Holds the device while the role is built."""
    state: Literal["present", "absent", "left_out"] = "present"
    """absent: it is started again; left_out: others go on without it."""

    @property
    def name(self) -> str:
        return self.process.name
