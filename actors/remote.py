"""The four roles over Ray: proxies on the driver that satisfy the contracts by calling Ray actors.

Every wait has a timeout: a role that does not return in time is an error, never a hang.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
import torch
from torch import Tensor

from actors.contracts import Column, GenerationJob, Generator, GradeTask, HostWeights, Reference, WeightsInfo
from actors.finished import Finished
from actors.learning.rank_parts import merge_scores, plan_scores, plan_updates
from actors.local import init_host_weights, publish_host_weights
from configs.learner import LearnerConfig
from objectives.diagnostics import Stats, merge
from trajectories.batch import Batch
from trajectories.trajectory import Grade


class Handle:
    """A Ray actor that runs one role (`ray_shells.RoleShell`), its name in error messages, and its timeout."""

    def __init__(self, actor: Any, name: str, timeout_s: float) -> None:
        self.actor, self.name, self.timeout_s = actor, name, timeout_s
        self._starting: Any = None
        self._built = False

    def send(self, method: str, *arguments: Any) -> Any:
        """Start a call of the role and return Ray's object reference to its result."""
        return self.actor.call.remote(method, *arguments)

    async def wait(self, result: Any, method: str, timeout_s: float | None = None) -> Any:
        """Return the value of a Ray object reference.

        Args:
            method: the call's name, for error messages.
            timeout_s: default: the handle's.

        Raises:
            ValueError: the call raised one.
            RuntimeError: the call raised anything else, or took longer than the timeout.
            ray.exceptions.RayActorError: the actor's process died.
        """
        timeout_s = timeout_s or self.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await _value(result)
        except TimeoutError:
            raise RuntimeError(f"{self.name}: {method} did not answer within {timeout_s:.0f} s") from None
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ValueError):  # the user's fault, with the message it would have in process
                raise ValueError(str(error.cause)) from error
            raise RuntimeError(f"{self.name}: {method} failed: {error.cause!r}") from error

    def begin(self, after: "Handle | None" = None) -> None:
        """Begin to build the role in its actor, once the role of `after` is built."""
        self._starting = self.actor.start.remote(*([after._starting] if after else []))

    async def started(self, timeout_s: float) -> float:
        """Wait until the role is built, and return the seconds that this took in its actor. Raises as `wait`."""
        seconds: float = await self.wait(self._starting, "start", timeout_s)
        self._built = True
        return seconds

    async def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        """Run a method of the role and return its result. Raises as `wait`."""
        return await self.wait(self.send(method, *arguments), method, timeout_s)

    async def close(self) -> None:
        """Close the role if it was built, then end its process, also if closing failed."""
        if self._built:
            with contextlib.suppress(Exception):  # the next line ends the process whatever happened
                await self.call("close", timeout_s=10.0)
        ray.kill(self.actor)


async def _value(result: Any) -> Any:
    return await result


class RemoteGenerator(Handle):
    """Generator in a Ray actor."""

    async def submit(self, jobs: Sequence[GenerationJob]) -> None:
        await self.call("submit", list(jobs))

    async def collect(self, wait_s: float) -> Finished:
        return await self.call("collect", wait_s)  # type: ignore[no-any-return]

    async def init_weights(self, info: WeightsInfo) -> None:
        await self.call("init_weights", info)

    async def update_weights(self, weights: HostWeights) -> int:
        """As in the contract. Also takes a Ray object reference to the weights, which Ray resolves in the actor."""
        return await self.call("update_weights", weights)  # type: ignore[no-any-return]


class RemoteGrader(Handle):
    """Grader in a Ray actor."""

    async def prove(self, verifiers: Sequence[str]) -> dict[str, int]:
        return await self.call("prove", list(verifiers))  # type: ignore[no-any-return]

    async def grade(self, tasks: Sequence[GradeTask]) -> dict[str, Grade]:
        return await self.call("grade", list(tasks))  # type: ignore[no-any-return]

    async def stats(self) -> dict[str, float]:
        return await self.call("stats")  # type: ignore[no-any-return]


SCORED_TABLES = ("anchors", "hidden", "reweighted", "certainty")
"""Dicts of `Batch` that a reference fills, besides `logp_reference`."""


def _logp_reference(batch: Batch) -> Tensor:
    assert batch.logp_reference is not None
    return batch.logp_reference


class RemoteReference:
    """Any number of Ray actors that all hold the same policies. Each scores a part of the batch's trajectories.

    Every call waits until the actors have loaded the policies.
    """

    def __init__(self, handles: Sequence[Handle], start_timeout_s: float) -> None:
        self.handles, self.start_timeout_s = list(handles), start_timeout_s

    async def started(self) -> None:
        """Wait until all actors have loaded the policies. Raises as `Handle.wait`."""
        await asyncio.gather(*(handle.started(self.start_timeout_s) for handle in self.handles))

    async def score(
        self,
        batch: Batch,
        names: Sequence[str] = ("reference",),
        hidden: Sequence[str] = (),
        columns: Sequence[Column] = (),
    ) -> Batch:
        await self.started()
        count = len(self.handles)
        parts = [list(range(i, len(batch.route), count)) for i in range(min(count, len(batch.route)))]
        calls = [
            handle.call("score", batch.select(part), list(names), list(hidden), list(columns))
            for handle, part in zip(self.handles, parts, strict=False)
        ]
        scored = await asyncio.gather(*calls)
        rows = torch.cat([batch.token_rows(part) for part in parts])

        def merged(columns: Sequence[Tensor]) -> Tensor:
            joined = torch.cat(list(columns))
            return torch.empty_like(joined).index_copy(0, rows, joined)

        tables: dict[str, Any] = {
            table: {name: merged([getattr(one, table)[name] for one in scored]) for name in getattr(scored[0], table)}
            for table in SCORED_TABLES
        }
        main = None if scored[0].logp_reference is None else merged([_logp_reference(one) for one in scored])
        return replace(batch, logp_reference=main, **tables)

    async def move(self, name: str, info: WeightsInfo, weights: Any, mixing_weight: float) -> None:
        await self.started()
        await asyncio.gather(*(handle.call("move", name, info, weights, mixing_weight) for handle in self.handles))

    async def save(self, folder: str) -> None:
        await self.started()
        await self.handles[0].call("save", folder)

    async def load(self, folder: str) -> None:
        await self.started()
        await asyncio.gather(*(handle.call("load", folder) for handle in self.handles))

    async def close(self) -> None:
        await asyncio.gather(*(handle.close() for handle in self.handles))


class RemoteLearner:
    """All learner ranks, each a `ray_shells.LearnerShell`. Every call runs on every rank, since each may contain a
    collective."""

    def __init__(
        self, ranks: Sequence[Handle], config: LearnerConfig, *, transfer: str, tensor_parallel: int, checksum: bool
    ) -> None:
        self.ranks, self.config, self.transfer = list(ranks), config, transfer
        self.tensor_parallel, self.checksum = tensor_parallel, checksum
        self.generators: list[Generator] = []
        self.shared = False
        """Whether all generators read the weights from the memory of rank 0, as they run on its node."""
        self.written = False
        """Whether training itself writes each version into that memory, so that rank 0 has nothing to do."""
        self.version_in_transfer: int | None = None
        self._width: float | None = None

    async def _linear_width(self) -> float:
        """Return the policy's `linear_width`, asked of rank 0 once."""
        if self._width is None:
            self._width = await self.ranks[0].call("linear_width")
        return self._width

    async def _all(self, method: str, *arguments: Any) -> list[Any]:
        return list(await asyncio.gather(*(rank.call(method, *arguments) for rank in self.ranks)))

    async def _gathered(self, method: str, *arguments: Any) -> Any:
        """Have every rank gather weights. Returns the Ray object reference to those of rank 0: receivers read them
        from Ray's object store, which is shared memory on one node, and they do not pass through the driver."""
        first, *others = [rank.send(method, *arguments) for rank in self.ranks]
        await asyncio.gather(*(r.wait(o, method) for r, o in zip(self.ranks[1:], others, strict=True)))
        return first

    async def score(self, batch: Batch) -> Batch:
        divided, rank_parts = plan_scores(batch, self.config, len(self.ranks), await self._linear_width())
        calls = [rank.call("score", part) for rank, part in zip(self.ranks, rank_parts, strict=True)]
        return merge_scores(batch, divided, await asyncio.gather(*calls))

    async def update(self, batch: Batch, coefficients: Mapping[str, float]) -> Stats:
        self._require_no_transfer()
        rank_parts = plan_updates(batch, self.config, len(self.ranks), await self._linear_width())
        calls = [rank.call("update", part, coefficients) for rank, part in zip(self.ranks, rank_parts, strict=True)]
        return merge(*await asyncio.gather(*calls))

    async def connect(self, generators: Sequence[Generator]) -> None:
        self.generators = list(generators)
        if self.transfer == "host":
            await init_host_weights(self.generators, await self.ranks[0].call("weights_info"))
            await self._share()
            return
        address = await self.ranks[0].wait(self.ranks[0].actor.address.remote(), "address")
        actors = [generator.actor for generator in self.generators if isinstance(generator, Handle)]
        starts = [
            rank.actor.init_transfer.remote(actors, self.transfer, self.tensor_parallel, address, rank.timeout_s)
            for rank in self.ranks
        ]
        await asyncio.gather(*(r.wait(s, "init_transfer") for r, s in zip(self.ranks, starts, strict=True)))

    async def _share(self) -> None:
        """Have all generators map the memory of rank 0's weights, if they can."""
        memory = await self.ranks[0].call("share_weights")
        handles = [generator for generator in self.generators if isinstance(generator, RemoteGenerator)]
        if memory is not None and len(handles) == len(self.generators):
            self.shared = all(await asyncio.gather(*(handle.call("attach_weights", memory) for handle in handles)))
            self.written = memory.holds_parameters and not self.checksum

    async def publish(self, version: int) -> None:
        if self.transfer == "host":
            await self._publish_from_host(version)
            return
        sends = [rank.actor.send_weights.remote(version) for rank in self.ranks]
        await asyncio.gather(*(r.wait(s, "publish") for r, s in zip(self.ranks, sends, strict=True)))

    def _require_no_transfer(self) -> None:
        version = self.version_in_transfer
        assert version is None, f"version {version} is being loaded, and must not change meanwhile"

    async def _publish_from_host(self, version: int) -> None:
        """Publish from the memory of rank 0, or through Ray's object store if a generator runs on another node."""
        self._require_no_transfer()
        self.version_in_transfer = version
        if self.shared and self.written:
            weights: Any = HostWeights(version=version)
        elif self.shared:
            weights, *_ = await self._all("weights", version, self.checksum, False)
        else:
            weights = await self._gathered("weights", version, self.checksum)
        await publish_host_weights(self.generators, weights, version)
        self.version_in_transfer = None  # not after a failure: a generator may still be reading

    async def update_reference(self, reference: Reference, name: str, mixing_weight: float) -> None:
        info = await self.ranks[0].call("master_info")
        await reference.move(name, info, await self._gathered("master_weights"), mixing_weight)

    async def save(self, folder: str) -> None:
        await self._all("save", folder)

    async def saved(self) -> None:
        await self._all("saved")

    async def load(self, folder: str) -> None:
        await self._all("load", folder)

    async def close(self) -> None:
        await asyncio.gather(*(rank.close() for rank in self.ranks))
