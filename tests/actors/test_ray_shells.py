"""The classes that Ray turns into actors, called in this process."""

import asyncio
import socket
import threading

import pytest

from actors.ray_shells import LearnerShell, RoleShell


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

    def fail(self) -> None:
        raise ValueError("refused")


async def started(kind: type[RoleShell]) -> RoleShell:
    shell = kind(__name__, "Role", {"factor": 3})
    await shell.start()
    return shell


def test_a_shell_serves_other_calls_while_a_blocking_method_runs() -> None:
    async def run() -> int:
        shell = await started(RoleShell)
        result, _ = await asyncio.gather(shell.call("block", 2), shell.call("release"))
        return int(result)

    assert asyncio.run(run()) == 6


def test_a_shell_raises_what_a_method_of_its_role_raises() -> None:
    async def run() -> None:
        await (await started(RoleShell)).call("fail")

    with pytest.raises(ValueError, match="refused"):
        asyncio.run(run())


def test_a_learner_shell_returns_an_address_that_a_process_group_can_listen_on() -> None:
    async def run() -> tuple[str, int]:
        shell = await started(LearnerShell)
        assert isinstance(shell, LearnerShell)
        return await shell.address()

    host, port = asyncio.run(run())
    with socket.socket() as listener:
        listener.bind((host, port))
