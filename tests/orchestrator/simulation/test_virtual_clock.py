"""The event loop in virtual time."""

import asyncio
import time

import pytest

from orchestrator.simulation.virtual_clock import run_virtually


def test_a_day_passes_at_once_and_sleepers_wake_in_order() -> None:
    woken: list[tuple[str, float]] = []

    async def sleep(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        woken.append((name, asyncio.get_running_loop().time()))

    async def body() -> None:
        await asyncio.gather(sleep("day", 86_400.0), sleep("minute", 60.0), sleep("hour", 3_600.0))

    began = time.monotonic()
    run_virtually(body())
    assert time.monotonic() - began < 30
    assert [name for name, _ in woken] == ["minute", "hour", "day"]
    assert [at for _, at in woken] == pytest.approx([60.0, 3_600.0, 86_400.0])


def test_a_timeout_ends_at_its_virtual_time() -> None:
    async def body() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(600):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run_virtually(body()) == pytest.approx(600)


def test_work_for_a_thread_takes_no_virtual_time_and_its_error_is_raised() -> None:
    async def body() -> float:
        assert await asyncio.to_thread(sum, [1, 2]) == 3
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)
        return asyncio.get_running_loop().time()

    assert run_virtually(body()) == 0.0


def test_waiting_for_what_never_happens_is_an_error() -> None:
    async def body() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="waits for something that never happens"):
        run_virtually(body())
