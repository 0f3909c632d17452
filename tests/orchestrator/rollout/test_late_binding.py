"""Late binding: groups wait until a generator has room, so that the fast one answers more of them."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from actors.contracts import GenerationJob
from actors.finished import EngineLoad, Finished
from configs.load import load
from orchestrator.rollout.rollouts import Rollouts, rollouts_for
from tests.orchestrator.fake_roles import ScriptedGenerator, ScriptedGrader, run
from tests.orchestrator.rollout.test_rollouts import texts, work
from trajectories.trajectory import Group

ROOM = 2 + 2 * 4
"""Tokens of a group here: a prompt of 2 and 2 answers of at most 4."""


class SteppingGenerator(ScriptedGenerator):
    """Decodes at most `rows` answers at a time, in order, and finishes `speed` of them per collection."""

    def __init__(self, rows: int, speed: int, free_kv_tokens: int = 10**6) -> None:
        super().__init__()
        self.rows, self.speed, self.free_kv_tokens = rows, speed, free_kv_tokens
        self.unfinished: list[tuple[str, int]] = []

    async def submit(self, jobs: list[GenerationJob]) -> None:  # type: ignore[override]
        await super().submit(jobs)
        self.unfinished += [(job.key, index) for job in jobs for index in range(len(job.seeds))]

    async def collect(self, wait_s: float) -> Finished:
        await asyncio.sleep(0.001)  # one decoding step, during which other generators decode too
        for key, index in self.unfinished[: self.speed]:
            self.finish(key, index)
        del self.unfinished[: self.speed]
        running = min(len(self.unfinished), self.rows)
        self.load = replace(
            self.load,
            running=running,
            free_sequences=self.rows - running,
            waiting=len(self.unfinished) - running,
            free_kv_tokens=max(0, self.free_kv_tokens - running * ROOM // 2),
        )
        return await super().collect(wait_s)


def binding(generators: list[ScriptedGenerator]) -> Rollouts:
    return Rollouts(generators, [ScriptedGrader()], 20.0, late_binding=True)


def test_the_fast_generator_gets_more_groups_and_every_group_is_answered_once() -> None:
    async def body() -> None:
        slow, fast = SteppingGenerator(rows=4, speed=1), SteppingGenerator(rows=4, speed=4)
        prompts, jobs = work(dict.fromkeys(range(40), 2))
        async with binding([slow, fast]) as rollouts:
            groups = await rollouts.run(prompts, jobs)
        assert [texts(group) for group in groups] == [[f"train/{i}/0", f"train/{i}/1"] for i in range(40)]
        assert sorted(slow.keys + fast.keys) == sorted(job.key for job in jobs), "groups stay whole"
        assert len(fast.keys) > 2 * len(slow.keys) > 0

    run(body())


def test_a_generator_with_waiting_answers_gets_no_further_group() -> None:
    async def body() -> None:
        generator = ScriptedGenerator()
        generator.load = EngineLoad(running=2, waiting=2, free_sequences=8, free_kv_tokens=10**6)
        async with binding([generator]) as rollouts:
            await rollouts.submit(*work({0: 2, 1: 2}))
            await asyncio.sleep(0.1)
            assert generator.keys == ["train/0"]
            generator.load = replace(generator.load, waiting=0)
            while len(generator.keys) < 2:
                await asyncio.sleep(0)

    run(body())


@pytest.mark.parametrize(("free", "bound"), [(ROOM - 1, 1), (ROOM, 2), (3 * ROOM + 1, 4)])
def test_as_many_groups_are_bound_as_their_longest_answers_fit_into_the_free_memory(free: int, bound: int) -> None:
    async def body() -> None:
        generator = ScriptedGenerator()
        generator.load = EngineLoad(free_kv_tokens=free, free_sequences=100)
        async with binding([generator]) as rollouts:
            await rollouts.submit(*work(dict.fromkeys(range(9), 2)))
            assert generator.keys == ["train/0"], "an idle engine takes any group; its load is not known"
            while len(generator.keys) < bound:
                await asyncio.sleep(0)
            assert [len(jobs) for jobs in generator.submissions] == [1, bound - 1][: min(bound, 2)]

    run(body())


def test_a_group_is_expected_to_be_as_long_as_the_answers_that_finished() -> None:
    """Answers of one token finish, so that a group takes 2 + 2 x 1 tokens and not 2 + 2 x 4."""

    async def body() -> None:
        generator = ScriptedGenerator()
        generator.load = EngineLoad(free_kv_tokens=ROOM - 1, free_sequences=100)
        async with binding([generator]) as rollouts:
            [first, *_] = await rollouts.submit(*work(dict.fromkeys(range(9), 2)))
            await asyncio.sleep(0.05)
            assert generator.keys == ["train/0"], "no answer has finished"
            generator.finish("train/0", 0)
            while len(generator.keys) < 3:
                await asyncio.sleep(0)
            assert [len(jobs) for jobs in generator.submissions] == [1, 2], "9 tokens are free"
            assert not first.done()

    run(body())


def test_no_more_answers_are_bound_than_the_engine_can_decode_at_once() -> None:
    async def body() -> None:
        generator = ScriptedGenerator()
        generator.load = EngineLoad(running=2, free_kv_tokens=10**6, free_sequences=5)
        async with binding([generator]) as rollouts:
            await rollouts.submit(*work(dict.fromkeys(range(9), 2)))
            while len(generator.submissions) < 2:
                await asyncio.sleep(0)
            assert [len(jobs) for jobs in generator.submissions] == [1, 2], "a third group would not be whole"

    run(body())


def test_groups_that_are_first_are_bound_before_those_that_wait() -> None:
    async def body() -> None:
        generator = SteppingGenerator(rows=2, speed=1)
        async with binding([generator]) as rollouts:
            waiting = await rollouts.submit(*work(dict.fromkeys(range(4), 2)))
            urgent = await rollouts.submit(*work({0: 2, 1: 2}, purpose="heldout"), first=True)
            await asyncio.gather(*waiting, *urgent)
        assert generator.keys == ["train/0", "heldout/0", "heldout/1", "train/1", "train/2", "train/3"]

    run(body())


def test_a_generator_that_fails_fails_the_groups_that_wait_for_room_too() -> None:
    async def body() -> None:
        generator = ScriptedGenerator()
        async with binding([generator]) as rollouts:
            futures = await rollouts.submit(*work({0: 2, 1: 2, 2: 2}))
            generator.error = RuntimeError("the engine broke")
            outcomes = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 10)
            assert [str(outcome) for outcome in outcomes] == ["the engine broke"] * 3

    run(body())


def test_the_answers_do_not_depend_on_the_generator_that_a_group_is_bound_to() -> None:
    async def answered(generators: list[ScriptedGenerator], late: bool) -> list[Group]:
        async with Rollouts(generators, [ScriptedGrader()], 20.0, late_binding=late) as rollouts:
            return await rollouts.run(*work(dict.fromkeys(range(12), 2)))

    async def body() -> None:
        one = await answered([ScriptedGenerator(at_once=True)], late=False)
        several = await answered([SteppingGenerator(2, 1), SteppingGenerator(2, 2)], late=True)
        for group, other in zip(one, several, strict=True):
            assert group.prompt == other.prompt and texts(group) == texts(other)
            for mine, theirs in zip(group.trajectories, other.trajectories, strict=True):
                np.testing.assert_array_equal(mine.tokens, theirs.tokens)

    run(body())


@pytest.mark.parametrize(
    ("settings", "late"),
    [
        (["generator.engine=vllm", "placement.generators=2", "lag=1"], True),
        (["generator.engine=vllm", "placement.generators=2"], False),
        (["generator.engine=vllm", "lag=1"], False),
        (["generator.engine=transformers", "placement.generators=2", "lag=1"], False),
    ],
)
def test_groups_wait_for_room_only_where_there_is_a_choice_and_nothing_has_to_be_repeatable(
    settings: list[str], late: bool
) -> None:
    async def body() -> None:
        cfg = load(settings)
        generators = [ScriptedGenerator() for _ in range(cfg.placement.generators)]
        async with rollouts_for(cfg, generators, [ScriptedGrader()]) as rollouts:
            await rollouts.submit(*work(dict.fromkeys(range(6), 2)))
            assert sum(len(g.keys) for g in generators) == (len(generators) if late else 6)

    run(body())
