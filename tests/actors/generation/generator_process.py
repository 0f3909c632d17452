"""vLLM generators for tests, each in a process of its own.

vLLM alters the process it runs in (random state, number of threads), and importing it takes about 10 s of CPU time.
One server process imports it; each generator runs in a fork of the server.
"""

import asyncio
import contextlib
import importlib
import multiprocessing
import os
import signal
import traceback
import uuid
from collections.abc import Sequence
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from configs.generator import GeneratorConfig
from configs.lora import LoraConfig

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "TORCH_COMPILE_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
REPLY_TIMEOUT_S = 180.0
"""Bound on the start of the server and on each call."""


def fork_on_connect(address: str, ready: Connection) -> None:
    """Import vLLM, then fork for each connection to `address`. Send True to `ready` once connections are accepted."""
    os.environ.update(ENVIRONMENT)
    importlib.import_module("actors.generation.vllm_engine")
    with Listener(address, "AF_UNIX") as listener:
        ready.send(True)
        while True:
            connection = listener.accept()
            if os.fork() == 0:
                listener.close()
                serve(connection)
                os._exit(0)
            connection.close()
            reap_children()


def reap_children() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def found(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def serve(connection: Connection) -> None:
    """Send the process id, then execute calls until `close` or until the other end is closed.

    `build` constructs the generator and `run` calls a function of a module; any other name is a generator method.
    """
    connection.send(os.getpid())
    generator: Any = None

    async def execute(name: str, arguments: Sequence[Any]) -> Any:
        nonlocal generator
        if name == "build":
            # The workers of a tensor-parallel engine are child processes, which a daemon may not have.
            multiprocessing.process.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
            generator = found(*arguments[:2])(**arguments[2])
        elif name == "run":
            try:
                return await asyncio.to_thread(found(*arguments[:2]), **arguments[2])
            except Exception as error:
                raise AssertionError(traceback.format_exc()) from error
        else:
            return await getattr(generator, name)(*arguments)

    async def loop() -> None:
        name = ""
        while name != "close":
            name, arguments = await asyncio.to_thread(connection.recv)
            try:
                connection.send((True, await execute(name, arguments)))
            except Exception as error:
                connection.send((False, error))

    with contextlib.suppress(EOFError):
        asyncio.run(loop())


class GeneratorServer:
    """The process with vLLM imported from which generator processes are forked."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        ready, theirs = context.Pipe(duplex=False)
        self.address = f"\0vllm-{uuid.uuid4()}"  # an abstract socket: it has no file to remove
        self.process = context.Process(target=fork_on_connect, args=(self.address, theirs), daemon=True)
        self.process.start()
        theirs.close()  # so that the death of the server ends the wait
        if not ready.poll(REPLY_TIMEOUT_S):
            raise TimeoutError("vLLM was not imported in time")
        ready.recv()

    def fork(self) -> "GeneratorProcess":
        return GeneratorProcess(self.address)

    def close(self) -> None:
        self.process.kill()
        self.process.join(30)


class GeneratorProcess:
    """A generator with the async interface of the role; its calls block only the test."""

    def __init__(self, address: str) -> None:
        self.connection = Client(address, "AF_UNIX")
        self.pid: int = self.connection.recv()

    def call(self, name: str, *arguments: Any) -> Any:
        self.connection.send((name, arguments))
        if not self.connection.poll(REPLY_TIMEOUT_S):
            raise TimeoutError(f"{name} did not return in time")
        ok, result = self.connection.recv()
        if not ok:
            raise result
        return result

    def build(
        self,
        path: Path,
        *,
        max_length: int = 256,
        tensor_parallel: int = 1,
        lora: LoraConfig | None = None,
        **settings: Any,
    ) -> "GeneratorProcess":
        config = GeneratorConfig(timeout_s=100, **settings)
        keywords = {"policy_path": str(path), "config": config, "dtype": "float32", "max_length": max_length}
        keywords |= {"tensor_parallel": tensor_parallel, "lora": lora}
        self.call("build", "actors.generation.vllm_engine", "VllmGenerator", keywords)
        return self

    def run(self, module: str, function: str, **keywords: Any) -> Any:
        """Call a function in the process, which has vLLM imported."""
        return self.call("run", module, function, keywords)

    def end(self) -> None:
        """Kill the process."""
        self.connection.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    async def submit(self, jobs: Sequence[Any]) -> None:
        self.call("submit", list(jobs))

    async def collect(self, wait_s: float) -> Any:
        return self.call("collect", wait_s)

    async def init_weights(self, info: Any) -> None:
        self.call("init_weights", info)

    async def update_weights(self, weights: Any) -> Any:
        return self.call("update_weights", weights)

    async def close(self) -> None:
        self.call("close")
        self.end()

    # vLLM's four transfer calls (`WeightReceiver`).

    def init_transfer(self, info: dict[str, Any]) -> None:
        self.call("init_transfer", info)

    def start_update(self) -> None:
        self.call("start_update")

    def receive(self, info: dict[str, Any]) -> None:
        self.call("receive", info)

    def finish_update(self, version: int) -> Any:
        return self.call("finish_update", version)
