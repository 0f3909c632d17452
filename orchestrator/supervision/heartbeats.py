"""Ask a process again and again whether it answers."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from actors.presence import RoleLost, RoleSilent

BEATS = 4
"""Successive questions without an answer after which a process is silent. Each waits for a part of the limit, so that
one answer that came late, because this process was busy or suspended, means nothing."""


class Answering(Protocol):
    """A process that can be asked."""

    name: str

    async def alive(self, timeout_s: float) -> None:
        """Raise RoleSilent if it does not answer in time, RoleLost if it has ended."""
        ...


async def listen(process: Answering, limit_s: float, lost: Callable[[Exception], object], start_s: float = 0.0) -> None:
    """Call `lost` once when the process has ended, or has not answered for `limit_s`, and return.

    What answers is a thread of its own (`ray_shells.HEARTBEAT`): a process whose role computes for long is not silent.

    Args:
        start_s: longest wait for the first answer, where the process may still be starting; 0: as for the others.
    """
    silent, wait_s = 0, start_s or limit_s / BEATS
    while True:
        try:
            await process.alive(wait_s)
            silent, wait_s = 0, limit_s / BEATS
        except RoleSilent:
            silent += 1
            if silent == BEATS:
                lost(RoleSilent(f"{process.name}: its process has not answered for {limit_s:.0f} s"))
                return
            continue
        except RoleLost as error:
            lost(error)
            return
        await asyncio.sleep(limit_s / BEATS)
