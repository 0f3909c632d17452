"""Ray actor classes of the roles that receive batches: learner ranks, and references.

Batches and outputs travel as numpy arrays, which Ray holds in shared memory; a torch tensor would be pickled.
"""

import asyncio
import importlib
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from actors.contracts import Column
from actors.learning.rank_parts import end_to_end
from actors.ray_shells import RoleShell
from actors.reference_parts import outputs
from actors.weights.transfer import TransferClient
from trajectories.arrays import ArrayOf, to_arrays
from trajectories.batch import Batch


class ReferenceShell(RoleShell):
    """Ray actor of the reference policies (`References`): returns what they have computed, not the batch."""

    async def call(self, method: str, *arguments: Any) -> Any:
        """Run a method of the role, as `RoleShell.call`. That of `score` is what `reference_parts.outputs` names."""
        if method == "score":
            return await asyncio.to_thread(self._score, *arguments)
        return await super().call(method, *arguments)

    def _score(
        self, batch: Batch, names: Sequence[str], hidden: Sequence[str], columns: Sequence[Column]
    ) -> dict[str, ArrayOf]:
        return to_arrays(outputs(self.role.score(batch, names, hidden, columns), names, hidden, columns))


class LearnerShell(RoleShell):
    """Ray actor of one learner rank (`FsdpLearner`): also chooses addresses and sends weights from GPU to GPU."""

    publisher: Any = None
    """Sends weights from GPU to GPU."""

    async def call(self, method: str, *arguments: Any) -> Any:
        """Run a method of the role, as `RoleShell.call`. Those of `score` and `score_references` are the outputs of all
        microbatches of this rank, end to end."""
        if method in ("score", "score_references"):
            return await asyncio.to_thread(self._scores, method, *arguments)
        return await super().call(method, *arguments)

    def _scores(self, method: str, *arguments: Any) -> dict[str, ArrayOf]:
        return to_arrays(end_to_end(getattr(self.role, method)(*arguments)))

    async def address(self) -> tuple[str, int]:
        """Return this node's IP address and a free port, for a process group whose rank 0 runs here."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    async def init_transfer(
        self,
        generators: Mapping[str, Any],
        backend: str,
        tensor_parallel: int,
        address: tuple[str, int],
        timeout_s: float,
    ) -> None:
        """Build the sending side of vLLM's weight transfer, in place of an earlier one of other generators. All ranks
        and generators must do this at the same time.

        Args:
            generators: Ray actors of the vLLM generators, by name.
            backend: "nccl" or "ipc".
            tensor_parallel: workers per generator.
            address: of rank 0.
            timeout_s: limit on each call to a generator.
        """
        receivers = [RemoteWeightReceiver(actor, name, timeout_s) for name, actor in generators.items()]
        client = TransferClient(receivers, tensor_parallel=tensor_parallel)
        # Imported here, as it imports vllm, which alters the process; with backend `host` no learner needs it.
        publisher = importlib.import_module("actors.weights.publication").GpuPublisher
        role = self.role
        if self.publisher is not None:
            await asyncio.to_thread(self.publisher.close)
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
        """Send the weights to all generators, together with the other ranks."""
        await asyncio.to_thread(self.publisher.publish, version)


class RemoteWeightReceiver:
    """`WeightReceiver` in another Ray actor. Its calls block, as the sending side of vLLM expects.

    Its errors are a RuntimeError that names the generator.
    """

    def __init__(self, actor: Any, name: str, timeout_s: float) -> None:
        self.actor, self.name, self.timeout_s = actor, name, timeout_s

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return ray.get(self.actor.call.remote(method, *arguments), timeout=self.timeout_s)
        except ray.exceptions.GetTimeoutError:
            raise RuntimeError(f"{self.name}: {method} did not answer within {self.timeout_s:.0f} s") from None
        except ray.exceptions.RayError as error:
            raise RuntimeError(f"{self.name}: {method} failed: {error}") from error

    def init_transfer(self, info: dict[str, Any]) -> None:
        self._call("init_transfer", info)

    def start_update(self) -> None:
        self._call("start_update")

    def receive(self, info: dict[str, Any]) -> None:
        self._call("receive", info)

    def finish_update(self, version: int) -> int:
        return self._call("finish_update", version)  # type: ignore[no-any-return]
