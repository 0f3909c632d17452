"""The roles over Ray: one generic actor shell, and proxies that give it the contracts' shape.

Every wait has a bound: a role that does not answer in time is an error, never a hang.
"""

import asyncio
import contextlib
import importlib
import inspect
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
import torch
from torch import Tensor

from actors.contracts import Column, Finished, GenerationJob, Generator, GradeTask, HostWeights, Reference, WeightsInfo
from actors.learning.rank_parts import plan_scores, plan_updates, with_scores
from actors.local import connect_by_host, publish_by_host
from actors.weights.transfer import TransferClient
from configs.learner import LearnerConfig
from objectives.diagnostics import Stats, merge
from trajectories.batch import Batch
from trajectories.trajectory import Grade


class RoleShell:
    """Holds one role inside a Ray actor. The role's module is imported here and not by the driver, so that vLLM and
    CUDA load only where they run, after the actor's environment variables are set."""

    def __init__(self, module: str, name: str, arguments: dict[str, Any]) -> None:
        self.module, self.name, self.arguments = module, name, arguments

    async def start(self) -> None:
        self.role = await asyncio.to_thread(self._build)

    def _build(self) -> Any:
        return getattr(importlib.import_module(self.module), self.name)(**self.arguments)

    async def call(self, method: str, *arguments: Any) -> Any:
        """Run a method of the role; a blocking one runs in a thread, so that the actor keeps answering."""
        function = getattr(self.role, method)
        if inspect.iscoroutinefunction(function):
            return await function(*arguments)
        return await asyncio.to_thread(function, *arguments)

    async def address(self) -> tuple[str, int]:
        """Host and port, free at the time of asking, for a group whose rank 0 runs here."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    async def attach(
        self, generators: list[Any], backend: str, tensor_parallel: int, address: tuple[str, int], timeout_s: float
    ) -> None:
        """In a learner on a GPU: prepare vLLM's sending side, which reaches the generators through their actors."""
        doors = [TransferDoor(actor, timeout_s) for actor in generators]
        client = TransferClient(doors, tensor_parallel=tensor_parallel)
        publisher = importlib.import_module("actors.weights.publication").GpuPublisher
        role = self.role
        self.publisher = await asyncio.to_thread(
            lambda: publisher(
                role.policy.model,
                client,
                backend=backend,
                dtype=role.dtype,
                rank=role.rank,
                address=address[0],
                port=address[1],
            )
        )

    async def send_weights(self, version: int) -> None:
        await asyncio.to_thread(self.publisher.publish, version)


class TransferDoor:
    """A generator's four weight-transfer calls, blocking, as the sending side of vLLM makes them."""

    def __init__(self, actor: Any, timeout_s: float) -> None:
        self.actor, self.timeout_s = actor, timeout_s

    def _call(self, method: str, *arguments: Any) -> Any:
        return ray.get(self.actor.call.remote(method, *arguments), timeout=self.timeout_s)

    def init_transfer(self, info: dict[str, Any]) -> None:
        self._call("init_transfer", info)

    def start_update(self) -> None:
        self._call("start_update")

    def receive(self, info: dict[str, Any]) -> None:
        self._call("receive", info)

    def finish_update(self, version: int) -> int:
        return self._call("finish_update", version)  # type: ignore[no-any-return]


class Handle:
    """One Ray actor with a role in it."""

    def __init__(self, actor: Any, name: str, timeout_s: float) -> None:
        self.actor, self.name, self.timeout_s = actor, name, timeout_s

    def send(self, method: str, *arguments: Any) -> Any:
        """Start a call and return Ray's reference to its result."""
        return self.actor.call.remote(method, *arguments)

    async def wait(self, reference: Any, what: str, timeout_s: float | None = None) -> Any:
        timeout_s = timeout_s or self.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await _result(reference)
        except TimeoutError:
            raise RuntimeError(f"{self.name}: {what} did not answer within {timeout_s:.0f} s") from None
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ValueError):  # the user's fault, told as it would be in process
                raise ValueError(str(error.cause)) from error
            raise RuntimeError(f"{self.name}: {what} failed: {error.cause!r}") from error

    async def start(self, timeout_s: float) -> None:
        """Wait until the role is built."""
        await self.wait(self.actor.start.remote(), "start", timeout_s)

    async def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        return await self.wait(self.send(method, *arguments), method, timeout_s)

    async def close(self) -> None:
        """Let the role clean up, then end its process whatever it answered."""
        with contextlib.suppress(Exception):  # the process is ended on the next line, which is what closing means
            await self.call("close", timeout_s=10.0)
        ray.kill(self.actor)


async def _result(reference: Any) -> Any:
    return await reference


class RemoteGenerator(Handle):
    async def submit(self, jobs: Sequence[GenerationJob]) -> None:
        await self.call("submit", list(jobs))

    async def collect(self, wait_s: float) -> list[Finished]:
        return await self.call("collect", wait_s)  # type: ignore[no-any-return]

    async def init_weights(self, info: WeightsInfo) -> None:
        await self.call("init_weights", info)

    async def update_weights(self, weights: HostWeights) -> int:
        """A Ray reference to the weights does as well: they then go from the learner to here, not by the driver."""
        return await self.call("update_weights", weights)  # type: ignore[no-any-return]


class RemoteGrader(Handle):
    async def prove(self, verifiers: Sequence[str]) -> dict[str, int]:
        return await self.call("prove", list(verifiers))  # type: ignore[no-any-return]

    async def grade(self, tasks: Sequence[GradeTask]) -> dict[str, Grade]:
        return await self.call("grade", list(tasks))  # type: ignore[no-any-return]

    async def stats(self) -> dict[str, float]:
        return await self.call("stats")  # type: ignore[no-any-return]


SCORED_TABLES = ("anchors", "hidden", "reweighted", "certainty")
"""What a reference fills besides `logp_reference`."""


def _main(batch: Batch) -> Tensor:
    assert batch.logp_reference is not None
    return batch.logp_reference


class RemoteReference:
    """Any number of actors with the same policies; each scores a share of the batch's trajectories."""

    def __init__(self, handles: Sequence[Handle]) -> None:
        self.handles = list(handles)

    async def score(
        self,
        batch: Batch,
        names: Sequence[str] = ("reference",),
        hidden: Sequence[str] = (),
        columns: Sequence[Column] = (),
    ) -> Batch:
        count = len(self.handles)
        shares = [list(range(i, len(batch.route), count)) for i in range(min(count, len(batch.route)))]
        calls = [
            handle.call("score", batch.select(share), list(names), list(hidden), list(columns))
            for handle, share in zip(self.handles, shares, strict=False)
        ]
        scored = await asyncio.gather(*calls)
        rows = torch.cat([batch.token_rows(share) for share in shares])

        def whole(parts: Sequence[Tensor]) -> Tensor:
            joined = torch.cat(list(parts))
            return torch.empty_like(joined).index_copy(0, rows, joined)

        tables: dict[str, Any] = {
            table: {name: whole([getattr(part, table)[name] for part in scored]) for name in getattr(scored[0], table)}
            for table in SCORED_TABLES
        }
        main = None if scored[0].logp_reference is None else whole([_main(part) for part in scored])
        return replace(batch, logp_reference=main, **tables)

    async def move(self, name: str, info: WeightsInfo, weights: Any, share: float) -> None:
        await asyncio.gather(*(handle.call("move", name, info, weights, share) for handle in self.handles))

    async def save(self, folder: str) -> None:
        await self.handles[0].call("save", folder)

    async def load(self, folder: str) -> None:
        await asyncio.gather(*(handle.call("load", folder) for handle in self.handles))

    async def close(self) -> None:
        await asyncio.gather(*(handle.close() for handle in self.handles))


class RemoteLearner:
    """All learner ranks. Each call reaches every rank, since any of them may hold a collective."""

    def __init__(
        self, ranks: Sequence[Handle], config: LearnerConfig, *, transfer: str, tensor_parallel: int, checksum: bool
    ) -> None:
        self.ranks, self.config, self.transfer = list(ranks), config, transfer
        self.tensor_parallel, self.checksum = tensor_parallel, checksum
        self.generators: list[Generator] = []

    async def _all(self, method: str, *arguments: Any) -> list[Any]:
        return list(await asyncio.gather(*(rank.call(method, *arguments) for rank in self.ranks)))

    async def score(self, batch: Batch) -> Batch:
        divided, shares = plan_scores(batch, self.config, len(self.ranks))
        calls = [rank.call("score", share) for rank, share in zip(self.ranks, shares, strict=True)]
        return with_scores(batch, divided, await asyncio.gather(*calls))

    async def update(self, batch: Batch, coefficients: Mapping[str, float]) -> Stats:
        shares = plan_updates(batch, self.config, len(self.ranks))
        calls = [rank.call("update", share, coefficients) for rank, share in zip(self.ranks, shares, strict=True)]
        return merge(*await asyncio.gather(*calls))

    async def connect(self, generators: Sequence[Generator]) -> None:
        self.generators = list(generators)
        if self.transfer == "host":
            await connect_by_host(self.generators, await self.ranks[0].call("weights_info"))
            return
        address = await self.ranks[0].wait(self.ranks[0].actor.address.remote(), "address")
        doors = [generator.actor for generator in self.generators if isinstance(generator, Handle)]
        starts = [
            rank.actor.attach.remote(doors, self.transfer, self.tensor_parallel, address, rank.timeout_s)
            for rank in self.ranks
        ]
        await asyncio.gather(*(r.wait(s, "attach") for r, s in zip(self.ranks, starts, strict=True)))

    async def publish(self, version: int) -> None:
        """Host: rank 0's weights lie in Ray's object store, shared memory on one node, and every generator reads them
        there; they do not pass the driver. GPU: the ranks send through vLLM's own backend."""
        if self.transfer != "host":
            sends = [rank.actor.send_weights.remote(version) for rank in self.ranks]
            await asyncio.gather(*(r.wait(s, "publish") for r, s in zip(self.ranks, sends, strict=True)))
            return
        first, *others = [rank.send("weights", version, self.checksum) for rank in self.ranks]
        await asyncio.gather(*(r.wait(o, "weights") for r, o in zip(self.ranks[1:], others, strict=True)))
        await publish_by_host(self.generators, first, version)

    async def lead(self, reference: Reference, name: str, share: float) -> None:
        """Rank 0's weights lie in Ray's object store, from which every reference actor reads them."""
        info = await self.ranks[0].call("weights_info", "float32")
        first, *others = [rank.send("weights", 0, False, "float32") for rank in self.ranks]
        await asyncio.gather(*(r.wait(o, "weights") for r, o in zip(self.ranks[1:], others, strict=True)))
        await reference.move(name, info, first, share)

    async def save(self, folder: str) -> None:
        await self._all("save", folder)

    async def load(self, folder: str) -> None:
        await self._all("load", folder)

    async def close(self) -> None:
        await asyncio.gather(*(rank.close() for rank in self.ranks))
