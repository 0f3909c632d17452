"""The vLLM generator in a process of its own, with the same interface: vLLM changes the process it runs in."""

import asyncio
import importlib
import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from configs.generator import GeneratorConfig

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "TORCH_COMPILE_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
CALL_TIMEOUT_S = 180.0


def serve(pipe: Connection) -> None:
    """Build a generator, then run one call after another. A failed build can be tried again."""
    os.environ.update(ENVIRONMENT)
    generator: Any = None

    async def run_calls() -> None:
        nonlocal generator
        while True:
            name, arguments = await asyncio.to_thread(pipe.recv)
            try:
                if name == "build":
                    module, kind, keywords = arguments
                    generator = getattr(importlib.import_module(module), kind)(**keywords)
                    result = None
                else:
                    result = await getattr(generator, name)(*arguments)
                pipe.send((True, result))
            except Exception as error:
                pipe.send((False, error))
            if name == "close":
                return

    asyncio.run(run_calls())


class GeneratorProcess:
    """Proxy of a generator in a child process. Its calls block."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, child_pipe = context.Pipe()
        self.process = context.Process(target=serve, args=(child_pipe,), daemon=True)
        self.process.start()

    def call(self, name: str, *arguments: Any) -> Any:
        self.pipe.send((name, arguments))
        if not self.pipe.poll(CALL_TIMEOUT_S):
            raise TimeoutError(f"{name} did not return within {CALL_TIMEOUT_S} s")
        ok, result = self.pipe.recv()
        if not ok:
            raise result
        return result

    def build(self, path: Path, *, max_length: int = 256, **settings: Any) -> "GeneratorProcess":
        config = GeneratorConfig(timeout_s=100, **settings)
        keywords = {"policy_path": str(path), "config": config, "dtype": "float32", "max_length": max_length}
        self.call("build", "actors.generation.vllm_engine", "VllmGenerator", keywords)
        return self

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
        self.process.join(30)

    # vLLM's four transfer calls (`WeightReceiver`).

    def init_transfer(self, info: dict[str, Any]) -> None:
        self.call("init_transfer", info)

    def start_update(self) -> None:
        self.call("start_update")

    def receive(self, info: dict[str, Any]) -> None:
        self.call("receive", info)

    def finish_update(self, version: int) -> Any:
        return self.call("finish_update", version)
