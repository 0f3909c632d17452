"""Processes that share cores in virtual time."""

import asyncio
import math

import pytest

from orchestrator.simulation.cores import Cores
from orchestrator.simulation.virtual_clock import run_virtually


def ends(count: float, *works: tuple[float, float, int]) -> list[float]:
    """Return when each computation ends: (start, seconds, processes) on so many cores."""

    async def one(cores: Cores, start: float, seconds: float, processes: int) -> float:
        await asyncio.sleep(start)
        await cores.finish(seconds, processes)
        return asyncio.get_running_loop().time()

    async def body() -> list[float]:
        cores = Cores(count)
        return list(await asyncio.gather(*(one(cores, *work) for work in works)))

    return run_virtually(body())


def test_as_many_processes_as_cores_do_not_slow_each_other_down() -> None:
    assert ends(2, (0, 3.0, 1), (0, 5.0, 1)) == pytest.approx([3.0, 5.0])
    assert ends(math.inf, *[(0, 3.0, 1)] * 9) == pytest.approx([3.0] * 9)


def test_more_processes_than_cores_advance_at_the_same_fraction_of_a_core() -> None:
    assert ends(2, *[(0, 2.0, 1)] * 3) == pytest.approx([3.0] * 3)
    assert ends(1.5, *[(0, 3.0, 1)] * 2) == pytest.approx([4.0] * 2)


def test_the_rate_changes_when_a_process_begins_or_ends() -> None:
    # Alone until 1 s, at half of a core until 3 s, alone again.
    assert ends(1, (0, 4.0, 1), (1.0, 1.0, 1)) == pytest.approx([5.0, 3.0])


def test_a_role_of_several_processes_counts_each() -> None:
    assert ends(2, (0, 2.0, 3), (0, 2.0, 1)) == pytest.approx([4.0, 4.0])


def test_a_computation_that_is_interrupted_tells_how_far_it_came() -> None:
    async def body() -> tuple[float, float]:
        cores, changed = Cores(1), asyncio.Event()
        other = asyncio.create_task(cores.finish(100.0))
        asyncio.get_running_loop().call_later(4.0, changed.set)
        await asyncio.sleep(0)
        computed = await cores.work(10.0, changed)
        other.cancel()
        return computed, asyncio.get_running_loop().time()

    assert run_virtually(body()) == pytest.approx((2.0, 4.0))
