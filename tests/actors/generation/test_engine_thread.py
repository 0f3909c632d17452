"""Which answers leave an engine's thread together, with an engine that finishes what it is told."""

import asyncio
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from actors.contracts import GenerationJob, HostWeights, WeightsInfo
from actors.finished import EngineLoad, Finished
from actors.generation import engine_thread
from actors.generation.engine_thread import EngineThread


def block(key: str) -> Finished:
    """Return one finished answer of one token."""
    return Finished(
        keys=[key],
        sample_index=np.zeros(1, np.int32),
        tokens=np.ones(1, np.int32),
        logps=np.zeros(1, np.float32),
        ends=np.ones(1, np.int64),
        first_version=np.zeros(1, np.int32),
        last_version=np.zeros(1, np.int32),
        stopped=np.ones(1, bool),
        texts=[""],
    )


class Scripted:
    """An engine whose steps finish answers as given, by key, or none (""). Steps from `held` on wait for `released`."""

    version = 0

    def __init__(self, steps: Sequence[str], held: int) -> None:
        self.script, self.held, self.released = list(steps), held, threading.Event()
        self.done = 0
        self.started = False

    @property
    def busy(self) -> bool:
        return self.started and self.done < len(self.script)

    def submit(self, jobs: Sequence[GenerationJob]) -> None:
        self.started = True

    def step(self) -> Finished | None:
        if self.done >= self.held:
            assert self.released.wait(30)
        key = self.script[self.done]
        self.done += 1
        return block(key) if key else None

    def workload(self) -> EngineLoad:
        running = int(self.busy)
        return EngineLoad(running=running, free_kv_tokens=8 * (1 - running), tokens=self.done)

    def declare(self, info: WeightsInfo) -> None: ...

    def load(self, weights: HostWeights) -> None: ...

    def close(self) -> None: ...


def job(answers: int) -> GenerationJob:
    return GenerationJob(
        key="p",
        prompt_id="p",
        prompt_tokens=np.array([1], np.int32),
        seeds=tuple(range(answers)),
        temperature=1.0,
        max_new_tokens=4,
    )


def collected(
    monkeypatch: pytest.MonkeyPatch, gather_s: float, steps: Sequence[str], held: int
) -> tuple[list[str], list[str], float]:
    """Return the keys of a collection and of one after the held steps were released, and the seconds of the first."""
    monkeypatch.setattr(engine_thread, "GATHER_S", gather_s)
    engine = Scripted(steps, held)
    thread = EngineThread(lambda: engine, max_length=8, timeout_s=30)

    async def run() -> tuple[list[str], list[str], float]:
        start = time.monotonic()
        await thread.submit([job(sum(map(bool, steps)))])
        first = await thread.collect(20.0)
        took = time.monotonic() - start
        engine.released.set()
        second = await thread.collect(2.0)
        await thread.close()
        return list(first.keys), list(second.keys), took

    return asyncio.run(run())


def test_answers_that_finish_soon_after_each_other_leave_together_and_at_once_after_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second, took = collected(monkeypatch, 60.0, ["a", "", "b", "c"], held=4)
    assert (first, second) == (["a", "b", "c"], [])
    assert took < 10, "nothing is left to decode, so nothing is waited for"


def test_answers_leave_while_others_are_still_decoded_also_in_steps_that_finish_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for steps, held in ((["a", "b", "c"], 1), (["a", "", "b"], 2)):
        first, second, _ = collected(monkeypatch, 0.0, steps, held)
        assert first == ["a"] and second[0] == "b"


def test_every_collection_tells_the_load_and_a_collection_without_answers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_thread, "LOAD_S", 0.0)
    engine = Scripted(["", "", "a"], held=2)
    thread = EngineThread(lambda: engine, max_length=8, timeout_s=30)

    async def run() -> list[EngineLoad]:
        loads = [(await thread.collect(0.0)).load]
        await thread.submit([job(3)])
        while engine.done < 2 or thread._load.tokens < 2:
            await asyncio.sleep(0.001)
        loads.append((await thread.collect(0.0)).load)
        engine.released.set()
        loads.append((await thread.collect(20.0)).load)
        await thread.close()
        return loads

    idle, working, ended = asyncio.run(run())
    assert idle == EngineLoad(free_kv_tokens=8)
    assert working == EngineLoad(waiting=2, running=1, tokens=2)
    assert (ended.running, ended.free_kv_tokens, ended.tokens) == (0, 8, 3)


def test_an_engine_may_finish_no_answer_for_longer_than_the_timeout_while_it_generates_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_thread, "LOAD_S", 0.0)

    class Slow(Scripted):
        def step(self) -> Finished | None:
            time.sleep(0.1)
            return super().step()

    thread = EngineThread(lambda: Slow([""] * 15 + ["a"], held=99), max_length=8, timeout_s=1.0)

    async def run() -> None:
        await thread.submit([job(1)])
        done: list[str] = []
        while not done:
            done += (await thread.collect(0.2)).keys
        assert done == ["a"]
        await thread.close()

    asyncio.run(run())


class Sleeper(Scripted):
    """A scripted engine that decodes nothing while it sleeps."""

    asleep = False

    @property
    def busy(self) -> bool:
        return not self.asleep and super().busy


def test_an_engine_may_sleep_with_unfinished_answers_for_longer_than_the_timeout() -> None:
    engine = Sleeper(["", "", "a"], held=1)
    thread = EngineThread(lambda: engine, max_length=8, timeout_s=0.5)

    async def run() -> list[str]:
        await thread.submit([job(1)])
        while engine.done < 1:
            await asyncio.sleep(0.01)
        sleeping = asyncio.create_task(thread._call(lambda engine: setattr(engine, "asleep", True)))
        await asyncio.sleep(0.05)
        engine.released.set()
        await sleeping
        assert engine.done == 2
        await asyncio.sleep(1.0)
        assert not (await thread.collect(0.0)).keys
        await thread._call(lambda engine: setattr(engine, "asleep", False))
        keys = list((await thread.collect(20.0)).keys)
        await thread.close()
        return keys

    assert asyncio.run(run()) == ["a"]
