"""Roles over Ray: proxies on the driver that satisfy the contracts by calling Ray actors. The fourth one is
`remote_reference.RemoteReference`.

Every wait has a timeout: a role that does not return in time is an error, never a hang.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from torch import Tensor

from actors.contracts import Column, GenerationJob, Generator, GradeTask, HostWeights, Reference, WeightsInfo
from actors.finished import Finished
from actors.learning.rank_parts import merge_columns, plan_scores, plan_updates, with_columns
from actors.local import init_host_weights, publish_host_weights
from actors.weights.watch import watched
from configs.learner import LearnerConfig
from objectives.diagnostics import Stats, merge
from trajectories.arrays import to_tensors
from trajectories.batch import Batch
from trajectories.trajectory import Grade


class Handle:
    """A Ray actor that runs one role (`ray_shells.RoleShell`), its name in error messages, and its timeout."""

    def __init__(self, actor: Any, name: str, timeout_s: float) -> None:
        self.actor, self.name, self.timeout_s = actor, name, timeout_s
        self._starting: Any = None
        self.built = False
        """Whether the role is known to be built."""

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
            RuntimeError: the call raised anything else or took longer than the timeout, or the actor's process died.
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
        except ray.exceptions.RayActorError as error:
            raise RuntimeError(f"{self.name}: its process died before {method} ended: {error}") from error

    async def computed(self, result: Any, method: str, timeout_s: float | None = None) -> None:
        """Wait until a call has ended, without its result.

        Raises:
            RuntimeError: it took longer than the timeout. What the call itself raises comes where its result is read.
        """
        limit_s = timeout_s or self.timeout_s
        ended, _ = await asyncio.to_thread(ray.wait, [result], timeout=limit_s, fetch_local=False)
        if not ended:
            raise RuntimeError(f"{self.name}: {method} did not answer within {limit_s:.0f} s")

    def begin(self, after: "Handle | None" = None) -> None:
        """Begin to build the role in its actor, once the role of `after` is built."""
        self._starting = self.actor.start.remote(*([after._starting] if after else []))

    async def started(self, timeout_s: float) -> float:
        """Wait until the role is built, and return the seconds that this took in its actor. Raises as `wait`."""
        seconds: float = await self.wait(self._starting, "start", timeout_s)
        self.built = True
        return seconds

    async def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        """Run a method of the role and return its result. Raises as `wait`."""
        return await self.wait(self.send(method, *arguments), method, timeout_s)

    async def call_stored(self, method: str, value: Any, *arguments: Any) -> Any:
        """Run a method of the role whose first argument is large: it goes through Ray's object store, and is written
        there outside the event loop. Raises as `wait`."""
        return await self.call(method, await asyncio.to_thread(ray.put, value), *arguments)

    async def free_gpu_memory(self) -> None:
        """Give back the GPU memory that torch keeps for later tensors in the actor's process."""
        await self.wait(self.actor.free_gpu_memory.remote(), "free_gpu_memory")

    async def close(self) -> None:
        """Close the role if it was built, then end its process, also if closing failed."""
        if self.built:
            with contextlib.suppress(Exception):  # the next line ends the process whatever happened
                await self.call("close", timeout_s=10.0)
        ray.kill(self.actor)


async def _value(result: Any) -> Any:
    return await result


class RemoteGenerator(Handle):
    """Generator in a Ray actor (`ray_shells.GeneratorShell`).

    Args:
        publish_timeout_s: longest `update_weights`, in seconds.
    """

    def __init__(self, actor: Any, name: str, timeout_s: float, publish_timeout_s: float) -> None:
        super().__init__(actor, name, timeout_s)
        self.publish_timeout_s = publish_timeout_s

    async def submit(self, jobs: Sequence[GenerationJob]) -> None:
        await self.call("submit", list(jobs))

    async def collect(self, wait_s: float) -> Finished:
        return await self.call("collect", wait_s)  # type: ignore[no-any-return]

    async def init_weights(self, info: WeightsInfo) -> None:
        await self.call("init_weights", info)

    async def update_weights(self, weights: HostWeights) -> int:
        """As in the contract. Also takes a Ray object reference to the weights, which Ray resolves in the actor."""
        limit_s = self.publish_timeout_s
        return await self.call("update_weights", weights, timeout_s=limit_s)  # type: ignore[no-any-return]

    async def served(self, version: int) -> None:
        """Return when the generator serves this version. Raises as `wait`."""
        await self.wait(self.actor.served.remote(version), "served")

    async def alive(self, timeout_s: float) -> None:
        """Return if the actor's process answers. Raises as `wait`."""
        await self.wait(self.actor.alive.remote(), "alive", timeout_s)

    async def sleep(self) -> int:
        """As in `orchestrator.devices.turns.SleepingGenerator`; vLLM only."""
        return await self.call("sleep")  # type: ignore[no-any-return]

    async def wake_up(self, tags: list[str]) -> None:
        """As in `orchestrator.devices.turns.SleepingGenerator`; vLLM only."""
        await self.call("wake_up", tags)


class RemoteGrader(Handle):
    """Grader in a Ray actor."""

    async def prove(self, verifiers: Sequence[str]) -> dict[str, int]:
        return await self.call("prove", list(verifiers))  # type: ignore[no-any-return]

    async def grade(self, tasks: Sequence[GradeTask]) -> dict[str, Grade]:
        return await self.call("grade", list(tasks))  # type: ignore[no-any-return]

    async def stats(self) -> dict[str, float]:
        return await self.call("stats")  # type: ignore[no-any-return]


class RemoteLearner:
    """All learner ranks, each a `batch_shells.LearnerShell`. Every call runs on every rank, since each may contain a
    collective.

    Args:
        publish_timeout_s: longest publication, in seconds.
    """

    def __init__(
        self,
        ranks: Sequence[Handle],
        config: LearnerConfig,
        *,
        transfer: str,
        tensor_parallel: int,
        checksum: bool,
        publish_timeout_s: float,
    ) -> None:
        self.publish_timeout_s = publish_timeout_s
        self.ranks, self.config, self.transfer = list(ranks), config, transfer
        self.tensor_parallel, self.checksum = tensor_parallel, checksum
        self.generators: list[Generator] = []
        self.shared = False
        """Whether all generators read the weights from the memory of rank 0, as they run on its node."""
        self.written = False
        """Whether training itself writes each version into that memory, so that rank 0 has nothing to do."""
        self.pieces = 0
        """Pieces of the weights that go through Ray's object store, if the generators are not all `shared`."""
        self.version_in_transfer: int | None = None
        self._width: float | None = None

    async def _linear_width(self) -> float:
        """Return the policy's `linear_width`, asked of rank 0 once."""
        if self._width is None:
            self._width = await self.ranks[0].call("linear_width")
        return self._width

    async def _all(self, method: str, *arguments: Any, timeout_s: float | None = None) -> list[Any]:
        return list(await asyncio.gather(*(rank.call(method, *arguments, timeout_s=timeout_s) for rank in self.ranks)))

    async def _gathered(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        """Have every rank gather weights. Returns the Ray object reference to those of rank 0: receivers read them
        from Ray's object store, which is shared memory on one node, and they do not pass through the driver."""
        rank, first = self.ranks[0], self.ranks[0].send(method, *arguments)
        others = [other.call(method, *arguments, timeout_s=timeout_s) for other in self.ranks[1:]]
        await asyncio.gather(rank.computed(first, method, timeout_s), *others)
        return first

    async def score(self, batch: Batch) -> Batch:
        return with_columns(batch, await self._scores("score", batch))

    async def score_references(
        self, batch: Batch, names: Sequence[str], columns: Sequence[Column]
    ) -> dict[str, Tensor]:
        return await self._scores("score_references", batch, list(names), list(columns))

    async def _scores(self, method: str, batch: Batch, *arguments: Any) -> dict[str, Tensor]:
        """Have the ranks score the trajectories of a batch with a method. Returns its outputs for all, by name."""
        width = await self._linear_width()
        divided, parts = await asyncio.to_thread(plan_scores, batch, self.config, len(self.ranks), width)
        calls = [rank.call_stored(method, part, *arguments) for rank, part in zip(self.ranks, parts, strict=True)]
        scored = await asyncio.gather(*calls)
        return await asyncio.to_thread(lambda: merge_columns(batch, divided, list(map(to_tensors, scored))))

    async def update(self, batch: Batch, coefficients: Mapping[str, float]) -> Stats:
        self._require_no_transfer()
        width = await self._linear_width()
        parts = await asyncio.to_thread(plan_updates, batch, self.config, len(self.ranks), width)
        calls = [rank.call_stored("update", part, coefficients) for rank, part in zip(self.ranks, parts, strict=True)]
        return merge(*await asyncio.gather(*calls))

    async def connect(self, generators: Sequence[Generator]) -> None:
        self.generators = list(generators)
        if self.transfer == "host":
            await init_host_weights(self.generators, await self.ranks[0].call("weights_info"))
            await self._share()
            return
        address = await self.ranks[0].wait(self.ranks[0].actor.address.remote(), "address")
        actors = {receiver.name: receiver.actor for receiver in self._receivers}
        limit_s = self.publish_timeout_s
        starts = [
            rank.actor.init_transfer.remote(actors, self.transfer, self.tensor_parallel, address, limit_s)
            for rank in self.ranks
        ]
        await asyncio.gather(*(r.wait(s, "init_transfer") for r, s in zip(self.ranks, starts, strict=True)))

    @property
    def _receivers(self) -> list[RemoteGenerator]:
        return [generator for generator in self.generators if isinstance(generator, RemoteGenerator)]

    async def _share(self) -> None:
        """Have all generators map the memory of rank 0's weights, if they can."""
        memory = await self.ranks[0].call("share_weights")
        handles = self._receivers
        if memory is not None and len(handles) == len(self.generators):
            self.shared = all(await asyncio.gather(*(handle.call("attach_weights", memory) for handle in handles)))
            self.written = memory.holds_parameters and not self.checksum
            if not self.shared:
                await asyncio.gather(*(handle.call("detach_weights") for handle in handles))
        if not self.shared:
            self.pieces = await self.ranks[0].call("weights_pieces")

    async def publish(self, version: int) -> None:
        if self.transfer == "host":
            await self._publish_from_host(version)
            return
        sends = [rank.wait(rank.actor.send_weights.remote(version), "publish") for rank in self.ranks]
        await watched(sends, self._receivers, version, self.publish_timeout_s)

    def _require_no_transfer(self) -> None:
        version = self.version_in_transfer
        assert version is None, f"version {version} is being loaded, and must not change meanwhile"

    async def _publish_from_host(self, version: int) -> None:
        """Publish from the memory of rank 0; or, if a generator runs on another node, through Ray's object store, which
        holds one piece at a time. The limit on the time is that of each piece."""
        self._require_no_transfer()
        self.version_in_transfer, limit_s = version, self.publish_timeout_s
        if self.shared and self.written:
            weights: Any = HostWeights(version=version)
        elif self.shared:
            weights, *_ = await self._all("weights", version, self.checksum, False, timeout_s=limit_s)
        if self.shared:
            await publish_host_weights(self.generators, weights, version)
        for number in range(self.pieces):
            weights = await self._gathered("weights_piece", number, version, self.checksum, timeout_s=limit_s)
            await publish_host_weights(self.generators, weights, version, last=number + 1 == self.pieces)
            del weights  # the store holds it as long as there is a reference to it
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
