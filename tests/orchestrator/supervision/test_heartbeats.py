"""When a process counts as silent."""

import asyncio
import time

import pytest

from actors.presence import RoleLost, RoleSilent
from orchestrator.supervision.heartbeats import BEATS, listen
from tests.orchestrator.fake_roles import run

LIMIT_S = 0.2


class Process:
    """Answers heartbeats as `answers` says, from the first on; after them it always answers."""

    name = "grader 0"

    def __init__(self, *answers: bool, dies: bool = False) -> None:
        self.answers, self.dies, self.asked = list(answers), dies, 0

    async def alive(self, timeout_s: float) -> None:
        self.asked += 1
        if self.answers and not self.answers.pop(0):
            await asyncio.sleep(timeout_s)
            raise RoleSilent("grader 0: alive did not answer")
        if self.dies and not self.answers:
            raise RoleLost("grader 0: its process died")


def test_a_process_that_misses_all_beats_of_the_limit_is_lost_with_its_name_and_the_limit() -> None:
    async def body() -> None:
        lost: list[Exception] = []
        process = Process(*[True] * 2, *[False] * BEATS)
        await listen(process, LIMIT_S, lost.append)
        assert process.asked == 2 + BEATS
        assert [str(error) for error in lost] == ["grader 0: its process has not answered for 0 s"]

    run(body())


def test_a_process_that_has_ended_is_lost_at_once() -> None:
    async def body() -> None:
        lost: list[Exception] = []
        await listen(Process(True, dies=True), LIMIT_S, lost.append)
        assert [str(error) for error in lost] == ["grader 0: its process died"]

    run(body())


@pytest.mark.parametrize("block_s", [0.0, 2 * LIMIT_S])
def test_late_answers_mean_nothing_while_some_come_in_time_also_if_this_process_was_blocked(block_s: float) -> None:
    async def body() -> None:
        lost: list[Exception] = []
        process = Process(*([False] * (BEATS - 1) + [True]) * 3)
        listening = asyncio.create_task(listen(process, LIMIT_S, lost.append))
        while process.asked < BEATS:
            await asyncio.sleep(0)
        time.sleep(block_s)
        while process.asked <= 3 * BEATS:
            await asyncio.sleep(0.01)
        listening.cancel()
        assert lost == []

    run(body())
