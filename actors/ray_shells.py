"""Ray actor classes: what those of all roles share, and those of generators and graders. `ps` shows their names.

Loads no torch, which a grader does not need; `batch_shells` does.
"""

import asyncio
import contextlib
import importlib
import inspect
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.loading import collector_paused
from actors.machine import scratch, stack_signal
from actors.machine.node_usage import node_usage

HEARTBEAT = "heartbeat"
"""Ray's concurrency group, with a thread of its own, of the calls that ask whether a process answers."""


class RoleShell:
    """Ray actor that builds one role and calls its methods.

    The role's module is imported in the actor's process and not in the driver's, so that vLLM and CUDA load only where
    they run, after the actor's environment variables are set.
    """

    def __init__(self, module: str, name: str, arguments: dict[str, Any]) -> None:
        self.module, self.name, self.arguments = module, name, arguments
        scratch.make_for_actor()
        stack_signal.register()

    def __repr__(self) -> str:
        """Return the name under which Ray passes on what this process prints."""
        return self.name

    async def start(self, secrets: Mapping[str, str], *after: float) -> float:
        """Import the module, build the role with `arguments` as keywords, and return the seconds that this took.

        Args:
            secrets: variables for the environment of this process. Arguments of a call go from process to process
                alone; Ray lists the variables of an actor, and its cluster stores the arguments that create it.
            after: not used. Ray waits for the value of an object reference that is passed here before it calls.
        """
        began = time.monotonic()
        os.environ.update(secrets)
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

    async def usage(self) -> tuple[str, dict[str, float]]:
        """Return the node's host name and its use, also while the role computes."""
        return await asyncio.to_thread(node_usage)

    async def reads(self, file: str, content: str, wait_s: float) -> tuple[str, bool]:
        """Return the node's host name, and whether a file here has this content within `wait_s` seconds."""
        return socket.gethostname(), await asyncio.to_thread(_reads, Path(file), content, wait_s)

    async def alive(self) -> None:
        """Return at once."""

    async def stacks(self) -> str:
        """Return where this process is, and the stacks of its threads."""
        return f"process {os.getpid()} on {socket.gethostname()}\n\n{stack_signal.own_stacks()}"

    async def free_gpu_memory(self) -> None:
        """Give back the GPU memory that torch keeps for later tensors, for another role on the same GPU."""
        torch = importlib.import_module("torch")  # not at the top: a grader's process loads no torch
        await asyncio.to_thread(torch.cuda.empty_cache)


def _reads(file: Path, content: str, wait_s: float) -> bool:
    until = time.monotonic() + wait_s
    while True:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if file.read_text() == content:
                return True
        if time.monotonic() > until:
            return False
        time.sleep(0.2)


class GraderShell(RoleShell):
    """Ray actor of a grader."""


class GeneratorShell(RoleShell):
    """Ray actor of a generator: also says since when it serves a version of the weights."""

    def __init__(self, module: str, name: str, arguments: dict[str, Any]) -> None:
        super().__init__(module, name, arguments)
        self.version = -1
        self.loaded = asyncio.Condition()

    async def call(self, method: str, *arguments: Any) -> Any:
        """As `RoleShell.call`."""
        result = await super().call(method, *arguments)
        if method in ("update_weights", "finish_update"):
            async with self.loaded:
                self.version = result
                self.loaded.notify_all()
        return result

    async def served(self, version: int) -> None:
        """Return when the generator serves this version."""
        async with self.loaded:
            await self.loaded.wait_for(lambda: self.version >= version)
