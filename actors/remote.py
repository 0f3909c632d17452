"""Roles over Ray: proxies on the driver that satisfy the contracts by calling Ray actors. Those of the roles that
receive batches are in `remote_learner` and `remote_reference`.

Every wait has a timeout: a role that does not return in time is an error, never a hang.
"""

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.contracts import GenerationJob, GradeTask, HostWeights, WeightsInfo
from actors.finished import Finished
from actors.machine.processes import end_process, identity
from actors.presence import LOSSES, RoleLost, RoleSilent
from actors.ray_shells import HEARTBEAT
from trajectories.trajectory import Grade

KILL_S = 20.0
"""Longest wait for the end of a process that does not answer, in seconds."""


class Handle:
    """A Ray actor that runs one role (`ray_shells.RoleShell`), its name in error messages, and its timeout.

    Args:
        create: creates the actor again, after its process has ended.
    """

    secrets: Mapping[str, str] = {}
    """Variables that the actor's process gets when its role is built, and that Ray does not list."""

    def __init__(self, actor: Any, name: str, timeout_s: float, create: Callable[[], Any] | None = None) -> None:
        self.actor, self.name, self.timeout_s, self.create = actor, name, timeout_s, create
        self._starting: Any = None
        self.built = False
        """Whether the role is known to be built."""
        self._process: tuple[str, int, str] | None = None
        """Its node and its `processes.identity`, once the role is built."""
        self._given_up: asyncio.Future[str] | None = None
        """Done, with the reason, when no answer of the process is waited for any more."""

    def send(self, method: str, *arguments: Any) -> Any:
        """Start a call of the role and return Ray's object reference to its result."""
        return self.actor.call.remote(method, *arguments)

    async def wait(
        self,
        result: Any,
        method: str,
        timeout_s: float | None = None,
        given_up: "asyncio.Future[str] | None" = None,
    ) -> Any:
        """Return the value of a Ray object reference.

        Args:
            method: the call's name, for error messages.
            timeout_s: default: the handle's.
            given_up: default: what `give_up` sets.

        Raises:
            ValueError: the call raised one.
            RoleLost: the call took longer than the timeout, the actor's process died, or the role has ended.
            RuntimeError: the call raised anything else.
        """
        timeout_s = timeout_s or self.timeout_s
        given_up = given_up or self._watched()
        if given_up.done():
            raise RoleLost(given_up.result())
        value = asyncio.ensure_future(_value(result))
        try:
            await asyncio.wait([value, given_up], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if value.done():
                return value.result()
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ValueError):  # the user's fault, with the message it would have in process
                raise ValueError(str(error.cause)) from error
            kind = RoleLost if isinstance(error.cause, LOSSES) else RuntimeError
            raise kind(f"{self.name}: {method} failed: {error.cause!r}") from error
        except ray.exceptions.RayActorError as error:
            if isinstance(error, ray.exceptions.ActorDiedError):
                self._process = None  # there is none to end
            raise RoleLost(f"{self.name}: its process died before {method} ended: {_cause(error)}") from None
        except (ray.exceptions.OutOfDiskError, ray.exceptions.ObjectStoreFullError):
            full = "Ray's object store is full, and the disk to which it moves what does not fit has no room"
            raise RuntimeError(f"{self.name}: {method} failed: {full}") from None
        except ray.exceptions.ObjectLostError:
            raise RoleLost(f"{self.name}: the result of {method} was lost with its node") from None
        finally:
            value.cancel()
        if given_up.done():
            raise RoleLost(given_up.result())
        raise RoleSilent(f"{self.name}: {method} did not answer within {timeout_s:.0f} s")

    def _watched(self) -> "asyncio.Future[str]":
        if self._given_up is None:
            self._given_up = asyncio.get_running_loop().create_future()
        return self._given_up

    def give_up(self, reason: str) -> None:
        """Have every call in progress, and every later one, raise RoleLost with this reason, until `restart`."""
        if not self._watched().done():
            self._watched().set_result(reason)

    @property
    def local_pid(self) -> int | None:
        """Process id of the actor, if it is on this machine and its role was built."""
        here = self._process is not None and self._process[0] == ray.get_runtime_context().get_node_id()
        return self._process[1] if self._process is not None and here else None

    async def alive(self, timeout_s: float) -> None:
        """Return if the actor's process answers, also while the role is at work. Raises as `wait`."""
        ping = self.actor.alive.options(concurrency_group=HEARTBEAT).remote()
        await self.wait(ping, "alive", timeout_s)

    async def restart(self) -> None:
        """End what is left of the actor's process, and create the actor again in its place. `rebuilt` builds its role.

        Returns when Ray has placed the actor: that takes as long as there is no room for it.
        """
        assert self.create is not None, f"{self.name} cannot be started again"
        self.give_up(f"{self.name}: it is started again")
        await self._end_process()
        self.built = False
        self.actor = self.create()
        try:
            await _value(self.actor.alive.remote())
        except ray.exceptions.RayActorError as error:
            raise RoleLost(f"{self.name}: its process did not start: {_cause(error)}") from None

    async def rebuilt(self, timeout_s: float) -> None:
        """Build the role after `restart`. Only when it is built do other calls reach it. Raises as `wait`."""
        self.begin()
        await self._build(timeout_s, asyncio.get_running_loop().create_future())
        self._given_up = None

    async def _end_process(self) -> None:
        """End the process, also if it is stopped (SIGSTOP) and answers nobody."""
        ray.kill(self.actor)
        if self._process is None:
            return
        (node, process, began), self._process = self._process, None
        with contextlib.suppress(Exception):  # the node may be gone
            async with asyncio.timeout(KILL_S):
                if node == ray.get_runtime_context().get_node_id():
                    await asyncio.to_thread(end_process, process, began)
                    return
                on_node = NodeAffinitySchedulingStrategy(node, soft=False)
                await _value(
                    ray.remote(end_process).options(num_cpus=0, scheduling_strategy=on_node).remote(process, began)
                )

    async def computed(self, result: Any, method: str, timeout_s: float | None = None) -> None:
        """Wait until a call has ended, without its result.

        Raises:
            RoleLost: it took longer than the timeout. What the call itself raises comes where its result is read.
        """
        limit_s = timeout_s or self.timeout_s
        ended, _ = await asyncio.to_thread(ray.wait, [result], timeout=limit_s, fetch_local=False)
        if not ended:
            raise RoleSilent(f"{self.name}: {method} did not answer within {limit_s:.0f} s")

    def begin(self, after: "Handle | None" = None) -> None:
        """Begin to build the role in its actor, once the role of `after` is built."""
        self._starting = self.actor.start.remote(dict(self.secrets), *([after._starting] if after else []))

    async def started(self, timeout_s: float) -> float:
        """Wait until the role is built, and return the seconds that this took in its actor. Raises as `wait`."""
        return await self._build(timeout_s, self._watched())

    async def _build(self, timeout_s: float, given_up: "asyncio.Future[str]") -> float:
        seconds: float = await self.wait(self._starting, "start", timeout_s, given_up)
        if not self.built:
            where = self.actor.__ray_call__.remote(_whereabouts)
            self._process = await self.wait(where, "start", timeout_s, given_up)
        self.built = True
        return seconds

    async def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        """Run a method of the role and return its result. Raises as `wait`."""
        return await self.wait(self.send(method, *arguments), method, timeout_s)

    async def call_stored(self, method: str, value: Any, *arguments: Any) -> Any:
        """Run a method of the role whose first argument is large: it goes through Ray's object store, and is written
        there outside the event loop. Raises as `wait`."""
        stored = await self.wait(in_thread(ray.put, value), f"storing the arguments of {method}")
        return await self.call(method, stored, *arguments)

    async def free_gpu_memory(self) -> None:
        """Give back the GPU memory that torch keeps for later tensors in the actor's process."""
        await self.wait(self.actor.free_gpu_memory.remote(), "free_gpu_memory")

    async def close(self) -> None:
        """Close the role if it was built, then end its process, also if closing failed.

        Ray ends a process that answers. If it were killed beside that, Ray would report an unexpected end.
        """
        if self.built:
            try:
                await self.call("close", timeout_s=10.0)
                self._process = None
            except RoleLost:
                pass  # the process may be stopped
            except Exception:  # the role's own
                self._process = None
        await self._end_process()


async def _value(result: Any) -> Any:
    return await result


async def in_thread(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return the value of a call that may never return, as of a raylet that hangs: nothing waits for its thread."""
    result: concurrent.futures.Future[Any] = concurrent.futures.Future()
    result.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result.set_result(call(*arguments))
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(result)


def _cause(error: Exception) -> str:
    """Return the sentence of Ray's report of a dead actor that says how it ended."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("The actor is dead", "The actor's node", "The node"))]
    return (told or lines or [type(error).__name__])[0].partition(" Some common causes")[0].rstrip(".")


def _whereabouts(shell: Any) -> tuple[str, int, str]:
    """Return the node and the identity of the process that this runs in."""
    return ray.get_runtime_context().get_node_id(), *identity()


class RemoteGenerator(Handle):
    """Generator in a Ray actor (`ray_shells.GeneratorShell`).

    Args:
        publish_timeout_s: longest `update_weights`, in seconds.
    """

    def __init__(
        self,
        actor: Any,
        name: str,
        timeout_s: float,
        publish_timeout_s: float,
        create: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__(actor, name, timeout_s, create)
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
