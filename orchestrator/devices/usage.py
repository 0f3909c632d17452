"""Read CPU, memory and GPU use of all nodes of a run, through the role actors that run there."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Protocol

from actors.machine.node_usage import node_usage

EVERY_S = 30.0
"""Least seconds between two readings."""
TIMEOUT_S = 10.0
"""Longest wait for a node's reading. A node that does not answer is left out."""


class OnNode(Protocol):
    """A role's process on a node, as `actors.remote.Handle`."""

    actor: Any

    async def wait(self, result: Any, method: str, timeout_s: float | None = None) -> Any:
        """Return the value of a Ray object reference."""


class NodeUsage:
    """The use of the driver's node and of the nodes of these processes. Nothing waits for a reading.

    Args:
        processes: may change; one process per node is asked, and all of them where one does not answer.
    """

    def __init__(self, processes: Sequence[OnNode]) -> None:
        self._processes = processes
        self._asked: list[OnNode] = []
        """One process per node, of the last reading."""
        self._reading: asyncio.Task[dict[str, float]] | None = None
        self._began = -EVERY_S

    def take(self) -> dict[str, float]:
        """Return the last reading if it was not taken yet, named `system/NODE/...`, and begin another if it is time."""
        values: dict[str, float] = {}
        if self._reading is not None and self._reading.done():
            values, self._reading = self._reading.result(), None
        if self._reading is None and time.monotonic() - self._began >= EVERY_S:
            self._began = time.monotonic()
            self._reading = asyncio.create_task(self._read())
        return values

    async def _read(self) -> dict[str, float]:
        asked = self._asked or list(self._processes)
        local, *answers = await asyncio.gather(
            asyncio.to_thread(node_usage),
            *(each.wait(each.actor.usage.remote(), "usage", TIMEOUT_S) for each in asked),
            return_exceptions=True,
        )
        used: dict[str, dict[str, float]] = {}
        hosts: dict[str, OnNode] = {}
        for process, answer in zip(asked, answers, strict=True):
            if not isinstance(answer, BaseException):
                host, values = answer
                used[host], hosts[host] = values, process
        if not isinstance(local, BaseException):
            used[local[0]] = local[1]
        self._asked = [*hosts.values()] if not any(isinstance(each, BaseException) for each in answers) else []
        return {f"system/{host}/{name}": value for host, values in used.items() for name, value in values.items()}
