"""Ray actor classes: one that runs any role, one for learner ranks, and the weight transfer between two actors."""

import asyncio
import importlib
import inspect
import socket
import time
from typing import Any

import ray

from actors.loading import collector_paused
from actors.weights.transfer import TransferClient


class RoleShell:
    """Ray actor that builds one role and calls its methods.

    The role's module is imported in the actor's process and not in the driver's, so that vLLM and CUDA load only where
    they run, after the actor's environment variables are set.
    """

    def __init__(self, module: str, name: str, arguments: dict[str, Any]) -> None:
        self.module, self.name, self.arguments = module, name, arguments

    async def start(self, *after: float) -> float:
        """Import the module, build the role with `arguments` as keywords, and return the seconds that this took.

        Args:
            after: not used. Ray waits for the value of an object reference that is passed here before it calls.
        """
        began = time.monotonic()
        self.role = await asyncio.to_thread(self._build)
        return time.monotonic() - began

    def _build(self) -> Any:
        with collector_paused():
            role = getattr(importlib.import_module(self.module), self.name)
        # vLLM collects garbage several times while it is built, now without the libraries.
        with collector_paused():
            return role(**self.arguments)

    async def call(self, method: str, *arguments: Any) -> Any:
        """Run a method of the role. A blocking one runs in a thread, so that the actor can serve other calls."""
        function = getattr(self.role, method)
        if inspect.iscoroutinefunction(function):
            return await function(*arguments)
        return await asyncio.to_thread(function, *arguments)

    async def free_gpu_memory(self) -> None:
        """Give back the GPU memory that torch keeps for later tensors, for another role on the same GPU."""
        torch = importlib.import_module("torch")  # not at the top: a grader's process loads no torch
        await asyncio.to_thread(torch.cuda.empty_cache)


class LearnerShell(RoleShell):
    """Ray actor of one learner rank (`FsdpLearner`): also chooses addresses and sends weights from GPU to GPU."""

    async def address(self) -> tuple[str, int]:
        """Return this node's IP address and a free port, for a process group whose rank 0 runs here."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    async def init_transfer(
        self, generators: list[Any], backend: str, tensor_parallel: int, address: tuple[str, int], timeout_s: float
    ) -> None:
        """Build the sending side of vLLM's weight transfer. All ranks and generators must do this at the same time.

        Args:
            generators: Ray actors of the vLLM generators.
            backend: "nccl" or "ipc".
            tensor_parallel: workers per generator.
            address: of rank 0.
            timeout_s: limit on each call to a generator.
        """
        receivers = [RemoteWeightReceiver(actor, timeout_s) for actor in generators]
        client = TransferClient(receivers, tensor_parallel=tensor_parallel)
        # Imported here, as it imports vllm, which alters the process; with backend `host` no learner needs it.
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
        """Send the weights to all generators, together with the other ranks."""
        await asyncio.to_thread(self.publisher.publish, version)


class RemoteWeightReceiver:
    """`WeightReceiver` in another Ray actor. Its calls block, as the sending side of vLLM expects."""

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
