"""Members that are lost: restarts, backoff, members that are left out and come back, and the end of a run."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from actors.presence import RoleLost, RoleSilent
from configs.placement import PlacementConfig
from orchestrator.supervision.member import Member
from orchestrator.supervision.supervisor import Supervisor
from tests.orchestrator.fake_roles import run

PLACE = {"restart_delay_s": 0.0, "start_timeout_s": 0.1, "generators": 3}


class Process:
    """A process whose restarts the test decides: None, an exception, or an event to wait for."""

    def __init__(self, name: str, *starts: Any) -> None:
        self.name, self.starts, self.events = name, list(starts), list[str]()
        self.silent = False
        self.local_pid: int | None = 4711

    def give_up(self, reason: str) -> None:
        self.events.append("give up")

    async def restart(self) -> None:
        self.events.append("restart")
        how = self.starts.pop(0) if self.starts else None
        if isinstance(how, Exception):
            raise how
        if how is not None:
            await how.wait()

    async def rebuilt(self, timeout_s: float) -> None:
        self.events.append("built")

    async def alive(self, timeout_s: float) -> None:
        if self.silent:
            await asyncio.sleep(timeout_s)
            raise RoleLost(f"{self.name}: its process died")


def member(process: Process, failures: list[Exception], **changes: Any) -> Member:
    def note(event: str) -> Callable[[], None]:
        return lambda: process.events.append(event)

    async def prepare() -> None:
        process.events.append("prepare")

    settings: dict[str, Any] = {"role": "generator", "prepare": prepare} | changes
    return Member(
        process=process,
        leave=note("leave"),
        leave_out=note("leave out"),
        enter=note("enter"),
        fail=failures.append,
        **settings,
    )


def supervisor(*processes: Process, **changes: Any) -> tuple[Supervisor, list[tuple[str, str]], list[Exception]]:
    alerts, failures = list[tuple[str, str]](), list[Exception]()
    place = PlacementConfig(**(PLACE | {k: v for k, v in changes.items() if k != "least"}))
    members = [member(process, failures, least=changes.get("least", 1)) for process in processes]
    return Supervisor(place, members, [], lambda title, text: alerts.append((title, text)), stacks), alerts, failures


async def stacks(pid: int | None) -> str:
    return f"the stacks, that of {pid} too"


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


ERROR = RoleLost("generator 0: its process died")
BACK = ["give up", "leave", "restart", "built", "prepare", "enter"]


def test_a_member_that_is_lost_leaves_at_once_and_enters_when_it_is_built_and_prepared() -> None:
    async def body() -> None:
        process = Process("generator 0")
        watched, alerts, failures = supervisor(process)
        notes: list[str] = []
        watched.note = lambda title, text: notes.append(title)
        async with watched:
            assert watched.lost(process, ERROR)
            assert process.events == ["give up", "leave"], "before anything else can run"
            assert watched.lost(process, ERROR), "further calls of the lost process fail too"
            await until(lambda: "enter" in process.events)
            assert process.events == BACK
            assert [title for title, _ in alerts] == ["generator 0 was lost"] and notes == ["generator 0 is back"]
            assert alerts[0][1] == "generator 0: its process died; it is started again after 0 s"
            metrics = watched.metrics()
            assert (metrics["restarts/generator"], metrics["restarts/generator/absent"]) == (1, 0)
            assert metrics["restarts/generator/seconds"] >= 0 and failures == []

    run(body())


def test_the_stacks_are_written_before_a_silent_process_is_ended_but_not_for_one_that_died() -> None:
    async def body() -> None:
        silent, dead = Process("generator 0"), Process("generator 1")
        watched, alerts, _ = supervisor(silent, dead)
        async with watched:
            assert watched.lost(silent, RoleSilent("generator 0: collect did not answer within 8 s"))
            assert watched.lost(dead, ERROR)
            await until(lambda: "enter" in silent.events and "enter" in dead.events)
        told = [alert[1] for alert in alerts if alert[0] == "generator 0"]
        assert told == ["the stacks, that of 4711 too"] and not [one for one in alerts if one[0] == "generator 1"]

    run(body())


def test_stacks_that_cannot_be_written_do_not_keep_a_silent_process_from_its_restart() -> None:
    async def full(pid: int | None) -> str:
        raise OSError(28, "No space left on device")

    async def body() -> None:
        process = Process("generator 0")
        failures: list[Exception] = []
        members = [member(process, failures)]
        async with Supervisor(PlacementConfig(**PLACE), members, [], lambda title, text: None, full) as watched:
            assert watched.lost(process, RoleSilent("generator 0: collect did not answer within 8 s"))
            await until(lambda: "enter" in process.events)
        assert not failures

    run(body())


def test_a_process_that_does_not_answer_its_heartbeats_is_started_again() -> None:
    async def body() -> None:
        process = Process("generator 0")
        watched, _, _ = supervisor(process, heartbeat_s=0.1)
        async with watched:
            await asyncio.sleep(0)
            process.silent = True
            await until(lambda: "leave" in process.events)
            process.silent = False
            await until(lambda: "enter" in process.events)
            process.silent = True
            await until(lambda: process.events.count("leave") == 2)

    run(body())


def test_a_start_that_fails_is_repeated_until_the_restarts_are_used_up_and_the_run_goes_on_with_the_others() -> None:
    async def body() -> None:
        broken, whole = Process("generator 0", *[RoleLost("out of memory")] * 9), Process("generator 1")
        watched, alerts, failures = supervisor(broken, whole, restarts=2)
        async with watched:
            assert watched.lost(broken, ERROR)
            await until(lambda: "leave out" in broken.events)
            assert broken.events == ["give up", "leave", "restart", "restart", "leave out"]
            assert alerts[-1] == (
                "generator 0 is left out",
                "placement.restarts=2 within 3600 s are used up; the last error: out of memory; the run goes on with 1",
            )
            assert watched.metrics()["restarts/generator/absent"] == 1 and failures == []

    run(body())


@pytest.mark.parametrize(("others", "least"), [(0, 1), (1, 2)])
def test_a_run_ends_where_fewer_than_the_least_are_left_and_says_what_to_do(others: int, least: int) -> None:
    async def body() -> None:
        broken = Process("generator 0", *[RoleLost("out of memory")] * 9)
        rest = [Process(f"generator {i + 1}") for i in range(others)]
        watched, _, failures = supervisor(broken, *rest, restarts=1, least=least)
        async with watched:
            assert watched.lost(broken, ERROR)
            await until(lambda: bool(failures))
        [error] = failures
        assert str(error) == (
            "generator 0 was lost and cannot be started again: placement.restarts=1 within 3600 s are used up; the "
            f"last error: out of memory. {others} generators are left, and at least {least} must be "
            "(placement.min_generators); mend the cause, then resume the run or give the command again"
        )

    run(body())


def test_a_member_for_which_there_is_no_room_is_left_out_and_comes_back_when_there_is_some() -> None:
    async def body() -> None:
        room = asyncio.Event()
        homeless, whole = Process("generator 0", room), Process("generator 1")
        watched, alerts, failures = supervisor(homeless, whole)
        async with watched:
            assert watched.lost(homeless, ERROR)
            await until(lambda: "leave out" in homeless.events)
            assert alerts[-1][0] == "generator 0 is left out" and "no room" in alerts[-1][1]
            room.set()
            await until(lambda: "enter" in homeless.events)
            assert homeless.events == ["give up", "leave", "restart", "leave out", "built", "prepare", "enter"]
            assert failures == []

    run(body())


def test_without_restarts_a_loss_is_nobodys_but_the_runs() -> None:
    async def body() -> None:
        process = Process("generator 0")
        watched, alerts, _ = supervisor(process, restarts=0)
        async with watched:
            assert not watched.lost(process, ERROR)
            assert not watched.lost(object(), ERROR)
        assert process.events == [] and alerts == []

    run(body())


def test_an_error_that_no_restart_can_mend_ends_the_run() -> None:
    async def body() -> None:
        async def refused() -> None:
            raise ValueError("sandbox.require: must be reached")

        failures: list[Exception] = []
        process = Process("grader 0")
        members = [member(process, failures, role="grader", prepare=refused)]
        async with Supervisor(PlacementConfig(**PLACE), members, [], lambda title, text: None, stacks) as watched:
            watched.lost(process, ERROR)
            await until(lambda: bool(failures))
        assert "enter" not in process.events and str(failures[0]) == "sandbox.require: must be reached"

    run(body())


def test_leaving_the_context_ends_every_task() -> None:
    async def body() -> None:
        before = asyncio.all_tasks()
        process = Process("generator 0", asyncio.Event())
        async with supervisor(process)[0] as watched:
            watched.lost(process, ERROR)
            await until(lambda: "restart" in process.events)
        assert asyncio.all_tasks() == before

    run(body())


def test_calls_to_a_learner_rank_that_is_silent_end_and_it_is_not_started_again() -> None:
    async def body() -> None:
        rank = Process("learner 0")
        watched = Supervisor(PlacementConfig(heartbeat_s=0.1), [], [rank], lambda title, text: None, stacks)
        async with watched:
            await asyncio.sleep(0)
            rank.silent = True
            await until(lambda: bool(rank.events))
            await asyncio.sleep(0.05)
        assert rank.events == ["give up"]

    run(body())
