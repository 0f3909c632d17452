"""Wait for a publication of weights from GPU to GPU, within a limit of its own, and name the generator at fault.

A collective has no limit: if one generator dies in it, the sending rank and all other generators wait for ever.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Protocol

ALIVE_S = 10.0
"""Longest time in seconds that a generator's process may take to say that it is alive."""


class Receiver(Protocol):
    """A generator that receives weights in another process."""

    @property
    def name(self) -> str: ...

    async def served(self, version: int) -> None:
        """Return when the generator serves this version. Raises an exception at once if its process dies."""
        ...

    async def alive(self, timeout_s: float) -> None:
        """Raise an exception if the generator's process does not answer within `timeout_s`."""
        ...


async def watched(
    sends: Sequence[Awaitable[object]], receivers: Sequence[Receiver], version: int, timeout_s: float
) -> None:
    """Wait until all ranks have sent a version and all generators serve it.

    Args:
        sends: the publication of each learner rank.

    Raises:
        RuntimeError: it failed or took longer than `timeout_s`. Names the generators whose processes do not answer, or
            else those that do not serve the version.
    """
    tasks: dict[asyncio.Future[object], Receiver | None] = {asyncio.ensure_future(send): None for send in sends}
    tasks |= {asyncio.ensure_future(receiver.served(version)): receiver for receiver in receivers}
    try:
        done, pending = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION)
        errors = {task: error for task in done if (error := task.exception()) is not None}
        if not errors and not pending:
            return
        reason = f"was not published within {timeout_s:.0f} s (placement.publish_timeout_s)"
        for error in errors.values():
            reason = f"was not published: {error}"
        at_fault = [receiver.name for task, receiver in tasks.items() if receiver is not None and task in errors]
        if not at_fault:
            at_fault = await _silent(receivers)
        if at_fault:
            raise RuntimeError(f"{', '.join(at_fault)}: does not answer, and version {version} {reason}")
        late = [receiver.name for task, receiver in tasks.items() if receiver is not None and task in pending]
        raise RuntimeError(f"{', '.join(late) or 'learner'}: version {version} {reason}")
    finally:
        for task in tasks:
            task.cancel()


async def _silent(receivers: Sequence[Receiver]) -> list[str]:
    """Return the names of the generators whose processes do not answer."""
    answers = await asyncio.gather(*(receiver.alive(ALIVE_S) for receiver in receivers), return_exceptions=True)
    return [receiver.name for receiver, answer in zip(receivers, answers, strict=True) if answer is not None]
