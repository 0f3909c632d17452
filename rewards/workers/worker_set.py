"""The worker processes of a pool: start, keep, replace and end them."""

import asyncio
import contextlib
from collections import defaultdict

from rewards.registry import VERIFIERS
from rewards.workers.demand import machine_cores
from rewards.workers.fork_server import ForkServer, available
from rewards.workers.process import START_TIMEOUT_S, StartFailed, Worker, environment, start

TRIES_IF_KILLED = 4
"""Attempts to start a worker that is killed by SIGKILL while it starts."""


class WorkerSet:
    """Workers of any verifiers. After a verifier has lost a worker, a spare worker of it is started ahead.

    Args:
        most_idle: workers that are kept idle. The least recently used one is ended.
        load_timeout_s: wall seconds within which a user verifier must be loaded.
    """

    def __init__(self, most_idle: int, load_timeout_s: float) -> None:
        self.most_idle, self.load_timeout_s = most_idle, load_timeout_s
        self.respawns = 0
        """Workers replaced since the start."""
        self.running: set[Worker] = set()
        self._idle: dict[Worker, None] = {}
        """Least recently used first."""
        self._spares: dict[str, asyncio.Task[Worker]] = {}
        self._starting: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(machine_cores()))
        """By verifier. Workers that start at the same time on fewer cores would all be ready late."""
        self._servers: dict[str, ForkServer] = {}
        self._need_spare: set[str] = set()
        """Verifiers that have lost a worker: a spare worker is started for them."""

    async def get(self, verifier: str) -> Worker:
        """Return the idle worker of the verifier that was used last, or else a new one. Raises StartFailed."""
        while (worker := next((w for w in reversed(self._idle) if w.verifier == verifier), None)) is not None:
            del self._idle[worker]
            if worker.alive:
                return worker
            await self.retire(worker)
        return await self._spare_or_new(verifier)

    async def keep(self, worker: Worker) -> None:
        """Keep a worker idle, or end it if it needs to be replaced."""
        if worker.needs_replacement():
            await self.retire(worker)
            return
        self._idle[worker] = None
        if len(self._idle) > self.most_idle:
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            await self._end(oldest)

    async def retire(self, worker: Worker) -> None:
        """End a worker that is to be replaced."""
        self.respawns += 1
        self._need_spare.add(worker.verifier)
        await self._end(worker)

    async def close(self) -> None:
        """End and reap every process."""
        for task in self._spares.values():
            task.cancel()
        await asyncio.gather(*self._spares.values(), return_exceptions=True)
        try:
            await asyncio.gather(*(self._end(worker) for worker in list(self.running)))
        finally:
            for server in self._servers.values():
                server.close()

    async def _spare_or_new(self, verifier: str) -> Worker:
        spare = self._spares.pop(verifier, None)
        worker: Worker | None = None
        if spare is not None:
            with contextlib.suppress(StartFailed):
                worker = await spare
        if worker is not None and not worker.alive:
            await self._end(worker)
            worker = None
        tries = TRIES_IF_KILLED
        while worker is None:
            try:
                worker = await self._start(verifier)
            except StartFailed as failure:
                tries -= 1
                if not failure.killed or not tries:
                    raise
        if verifier in self._need_spare and verifier not in self._spares:
            self._spares[verifier] = asyncio.create_task(self._start(verifier))
        return worker

    async def _end(self, worker: Worker) -> None:
        await worker.end()
        self.running.discard(worker)

    async def _start(self, verifier: str) -> Worker:
        async with self._starting[verifier]:
            timeout_s = START_TIMEOUT_S if verifier in VERIFIERS else self.load_timeout_s
            worker = await start(verifier, timeout_s, self._server(verifier))
        self.running.add(worker)
        return worker

    def _server(self, verifier: str) -> ForkServer | None:
        """Return the fork server of a verifier; None if it has none."""
        if verifier not in VERIFIERS or not VERIFIERS[verifier].forked or not available():
            return None
        return self._servers.setdefault(verifier, ForkServer(verifier, environment()))
