"""Handles of actors: calls to a process that is given up, one-line causes, and the end of a stopped process."""

import asyncio
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
import ray

from actors.machine.processes import _began, end_process, identity
from actors.presence import RoleLost, RoleSilent
from actors.remote import Handle, _cause
from tests.orchestrator.fake_roles import run


class Method:
    def __init__(self, result: Any) -> None:
        self.result = result

    def remote(self, *arguments: Any) -> Any:
        return self.result()

    def options(self, concurrency_group: str) -> "Method":
        return self


def never() -> "asyncio.Future[None]":
    return asyncio.get_running_loop().create_future()


def value(result: Any = 1.5) -> "asyncio.Future[Any]":
    answer = asyncio.get_running_loop().create_future()
    answer.set_result(result)
    return answer


class Actor:
    """A Ray actor whose calls never end, and whose role is built at once."""

    def __init__(self) -> None:
        self.call, self.start, self.alive, self.stacks = (Method(each) for each in (never, value, value, never))
        self.__dict__["__ray_call__"] = Method(lambda: value(("no node", 2**22 + 1, "0")))


def test_a_call_to_a_process_that_is_given_up_ends_at_once_and_so_does_every_later_one() -> None:
    async def body() -> None:
        handle = Handle(Actor(), "grader 0", 30.0)
        handle.begin()
        call = asyncio.ensure_future(handle.call("grade"))
        await asyncio.sleep(0.01)
        handle.give_up("grader 0: its process has not answered for 60 s")
        for late in (call, handle.call("stats"), handle.started(1.0)):
            with pytest.raises(RoleLost, match=r"^grader 0: its process has not answered for 60 s$"):
                await late

    run(body())


def test_the_stacks_of_a_process_that_is_given_up_are_read_all_the_same() -> None:
    async def body() -> None:
        actor = Actor()
        actor.stacks = Method(lambda: value("process 4711 on node-3"))
        handle = Handle(actor, "grader 0", 30.0)
        handle.give_up("grader 0: grade did not answer within 30 s")
        assert await handle.stacks(1.0) == "process 4711 on node-3"
        actor.stacks = Method(never)
        with pytest.raises(RoleSilent, match=r"^grader 0: stacks did not answer within 0 s$"):
            await handle.stacks(0.05)

    run(body())


def test_only_when_its_role_is_built_again_do_calls_reach_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[Any] = []
    monkeypatch.setattr(ray, "kill", killed.append)

    async def body() -> None:
        old, new = Actor(), Actor()
        new.call = Method(value)
        handle = Handle(old, "grader 0", 30.0, lambda: new)
        handle.give_up("gone")
        await handle.restart()
        assert killed == [old] and handle.actor is new
        with pytest.raises(RoleLost, match="gone"):
            await handle.call("stats")
        await handle.rebuilt(5.0)
        assert await handle.call("stats") == 1.5

    run(body())


def test_a_call_that_takes_too_long_says_how_long() -> None:
    async def body() -> None:
        with pytest.raises(RoleSilent, match=r"^generator 1: collect did not answer within 0 s$"):
            await Handle(Actor(), "generator 1", 0.05).call("collect", 1.0)

    run(body())


DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: GeneratorShell
\tpid: 21129
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. End of file. \
Some common causes include: (1) the process was killed"""


def test_the_cause_of_a_death_is_one_sentence_of_rays_report() -> None:
    cause = _cause(RuntimeError(DIED))
    assert cause.startswith("The actor is dead because its worker process has died.") and "\n" not in cause
    assert cause.endswith("End of file")
    assert _cause(RuntimeError("")) == "RuntimeError"


def test_a_stopped_process_is_ended_and_another_one_with_its_number_is_not() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        began = _began(process.pid)
        assert began and identity() == (os.getpid(), _began(os.getpid()))
        os.kill(process.pid, signal.SIGSTOP)
        end_process(process.pid, "1" + began)
        assert process.poll() is None
        end_process(process.pid, began)
        assert process.wait(10) == -signal.SIGKILL
        end_process(process.pid, began)
    finally:
        process.kill()
