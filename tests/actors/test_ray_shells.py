"""The classes that Ray turns into actors, called in this process."""

import asyncio
import gc
import importlib
import os
import socket
import subprocess
import sys
import threading

import pytest

from actors.batch_shells import LearnerShell
from actors.loading import collector_paused
from actors.ray_shells import GeneratorShell, RoleShell
from configs.load import load
from orchestrator.constructors import constructor


class Role:
    """A role with a blocking method, which ends only after `release`."""

    def __init__(self, factor: int) -> None:
        self.factor = factor
        self.released = threading.Event()

    def block(self, value: int) -> int:
        assert self.released.wait(10)
        return self.factor * value

    async def release(self) -> None:
        self.released.set()

    def update_weights(self, version: int) -> int:
        return version

    async def finish_update(self, version: int) -> int:
        return version

    def fail(self) -> None:
        raise ValueError("refused")


async def started(kind: type[RoleShell]) -> RoleShell:
    shell = kind(__name__, "Role", {"factor": 3})
    await shell.start({})
    return shell


def test_a_shell_serves_other_calls_while_a_blocking_method_runs() -> None:
    async def run() -> int:
        shell = await started(RoleShell)
        result, _ = await asyncio.gather(shell.call("block", 2), shell.call("release"))
        return int(result)

    assert asyncio.run(run()) == 6


def test_a_shell_has_its_secrets_before_its_role_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    shell = RoleShell("os", "getenv", {"key": "HF_TOKEN"})
    asyncio.run(shell.start({"HF_TOKEN": "hf_abc"}))
    assert shell.role == "hf_abc"


def test_a_shell_raises_what_a_method_of_its_role_raises() -> None:
    async def run() -> None:
        await (await started(RoleShell)).call("fail")

    with pytest.raises(ValueError, match="refused"):
        asyncio.run(run())


@pytest.mark.slow
@pytest.mark.parametrize("role", ["learner", "generator", "grader", "reference"])
def test_what_an_actor_builds_can_be_closed(role: str) -> None:
    cfg = load(["generator.engine=transformers"])
    module, name, _ = constructor(cfg, role, 0, names=[role], policy=cfg.policy.path, references={})
    assert callable(getattr(importlib.import_module(module), name).close), "else its process is killed"


@pytest.mark.parametrize("method", ["update_weights", "finish_update"])
def test_a_generator_serves_a_version_once_it_has_loaded_it_or_a_later_one(method: str) -> None:
    async def run() -> list[bool]:
        shell = await started(GeneratorShell)
        assert isinstance(shell, GeneratorShell)
        waits = [asyncio.ensure_future(shell.served(version)) for version in (3, 4, 5)]
        await shell.alive()
        assert not any(wait.done() for wait in waits)
        await shell.call("release")
        await shell.call(method, 4)
        await asyncio.wait(waits[:2])
        found = [wait.done() for wait in waits]
        waits[2].cancel()
        return found

    assert asyncio.run(run()) == [True, True, False]


def test_a_learner_shell_returns_an_address_that_a_process_group_can_listen_on() -> None:
    async def run() -> tuple[str, int]:
        shell = await started(LearnerShell)
        assert isinstance(shell, LearnerShell)
        return await shell.address()

    host, port = asyncio.run(run())
    with socket.socket() as listener:
        listener.bind((host, port))


def test_garbage_is_not_collected_while_a_role_loads_and_is_afterwards() -> None:
    frozen = gc.get_freeze_count()
    kept = [[] for _ in range(10_000)]
    with collector_paused():
        assert not gc.isenabled()
        kept += [[] for _ in range(10_000)]
    assert gc.isenabled() and gc.get_freeze_count() >= frozen + len(kept), "what lives now is never visited again"
    gc.unfreeze()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()


@pytest.mark.slow
def test_the_driver_and_the_roles_without_vllm_load_no_vllm() -> None:
    modules = "actors.learning.learner, actors.reference, actors.grader, orchestrator.start, orchestrator.in_process"
    code = f"import sys, {modules}; print([name for name in sys.modules if name.partition('.')[0] == 'vllm'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_shell_returns_the_stacks_of_all_its_threads_while_its_role_is_at_work() -> None:
    async def run() -> str:
        shell = await started(RoleShell)
        work = asyncio.ensure_future(shell.call("block", 2))
        await asyncio.sleep(0.05)
        text = await shell.stacks()
        await asyncio.gather(work, shell.call("release"))
        return text

    text = asyncio.run(run())
    assert text.startswith(f"process {os.getpid()} on {socket.gethostname()}\n") and "in block\n" in text
