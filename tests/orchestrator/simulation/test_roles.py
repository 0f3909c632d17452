"""The simulated generator and grader."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import pytest

from actors.contracts import GenerationJob, GradeTask
from orchestrator.simulation.costs import EngineCosts
from orchestrator.simulation.roles import SimulatedGenerator, SimulatedGrader
from orchestrator.simulation.virtual_clock import run_virtually

STEP = 0.5
Answer = tuple[str, int]
"""Key and sample index."""
Ends = dict[Answer, float]
"""Virtual seconds at which each answer is collected."""


seen: list[SimulatedGenerator] = []
"""The generator of the latest `decode`."""


def job(key: str, *lengths: int, prompt: int = 1) -> GenerationJob:
    """A job whose seeds are the lengths of its answers."""
    return GenerationJob(
        key=key,
        prompt_id=key,
        prompt_tokens=np.array([prompt], np.int32),
        seeds=lengths,
        temperature=1.0,
        max_new_tokens=10_000,
    )


def decode(
    costs: EngineCosts,
    jobs: Sequence[GenerationJob],
    also: Callable[[SimulatedGenerator], Awaitable[None]] | None = None,
    expected: int = 0,
) -> tuple[Ends, dict[Answer, tuple[int, int]]]:
    """Decode jobs, with what else `also` does meanwhile. Return when each answer is collected, and the weight versions
    of its first and last token."""

    seen.clear()

    async def body() -> tuple[Ends, dict[Answer, tuple[int, int]]]:
        generator = SimulatedGenerator(costs, length=lambda seed: seed)
        generator.resume(0)
        await generator.submit(jobs)
        other = asyncio.create_task(also(generator)) if also else None  # type: ignore[arg-type]
        ends: Ends = {}
        versions: dict[Answer, tuple[int, int]] = {}
        while len(ends) < (expected or sum(len(one.seeds) for one in jobs)):
            block = await generator.collect(1e6)
            now = asyncio.get_running_loop().time()
            for row, (key, index) in enumerate(zip(block.keys, block.sample_index.tolist(), strict=True)):
                ends[key, index] = now
                versions[key, index] = (int(block.first_version[row]), int(block.last_version[row]))
        if other:
            await other
        await generator.close()
        seen.append(generator)
        return ends, versions

    return run_virtually(body())


def test_answers_that_run_together_end_after_as_many_steps_as_they_have_tokens() -> None:
    ends, _ = decode(EngineCosts(overhead_s=STEP), [job("a", 10, 30), job("b", 20)])
    [generator] = seen
    assert ends == pytest.approx({("a", 0): 5.0, ("b", 0): 10.0, ("a", 1): 15.0})
    assert generator.busy_s == pytest.approx(15.0)
    assert generator.answer_s == pytest.approx(5 * 3 + 5 * 2 + 5 * 1)


def test_each_further_answer_in_a_step_takes_its_time() -> None:
    ends, _ = decode(EngineCosts(overhead_s=1.0, overhead_sequence_s=0.1), [job("a", 10, 20)])
    assert ends == pytest.approx({("a", 0): 10 * 1.2, ("a", 1): 10 * 1.2 + 10 * 1.1})


def test_the_time_of_reading_a_growing_cache_is_the_sum_over_all_steps() -> None:
    costs = EngineCosts(overhead_s=0.2, kv_s=0.01)
    ends, _ = decode(costs, [job("a", 40, prompt=7), job("b", 100, prompt=3)])
    together = sum(0.2 + 0.01 * (10 + 2 * step) for step in range(40))
    alone = sum(0.2 + 0.01 * (3 + 40 + step) for step in range(60))
    # The sum over whole steps is one half of a token per answer and step below the integral.
    assert ends["a", 0] == pytest.approx(together + 0.01 * 40)
    assert ends["b", 0] == pytest.approx(together + alone + 0.01 * 40 + 0.01 * 30)


def test_weights_are_read_once_per_step_until_products_take_longer() -> None:
    costs = EngineCosts(weights_s=1.0, sequence_s=0.3)
    assert [costs.step_s(n) for n in (1, 3, 5)] == pytest.approx([1.0, 1.0, 1.5])


def test_answers_wait_for_room_in_the_batch() -> None:
    ends, _ = decode(EngineCosts(overhead_s=STEP, max_sequences=2), [job("a", 10, 20, 30)])
    assert ends == pytest.approx({("a", 0): 5.0, ("a", 1): 10.0, ("a", 2): 5.0 + 15.0})


def test_answers_that_arrive_join_the_batch_and_nothing_that_was_decoded_is_lost() -> None:
    async def arrive(generator: SimulatedGenerator) -> None:
        await asyncio.sleep(3.25)  # in the middle of a step
        await generator.submit([job("late", 4)])

    ends, _ = decode(EngineCosts(overhead_s=1.0, kv_s=1e-9), [job("a", 10)], arrive, expected=2)
    assert ends["late", 0] == pytest.approx(3.25 + 4)
    assert ends["a", 0] == pytest.approx(10.0)


def test_a_pause_delays_the_answers_and_the_next_ones_have_the_new_version() -> None:
    async def pause(generator: SimulatedGenerator) -> None:
        await asyncio.sleep(2.0)
        generator.pause()
        await generator.submit([job("late", 1)])
        await asyncio.sleep(100.0)
        generator.resume(version=7)

    ends, versions = decode(EngineCosts(overhead_s=1.0), [job("a", 10)], pause, expected=2)
    assert ends == pytest.approx({("late", 0): 103.0, ("a", 0): 110.0})
    assert versions == {("late", 0): (7, 7), ("a", 0): (0, 7)}


def test_a_full_cache_preempts_the_answer_that_was_admitted_last_and_all_answers_end() -> None:
    costs = EngineCosts(overhead_s=1.0, kv_tokens=100.0, prefill_s=0.5)
    ends, _ = decode(costs, [job("a", 60, prompt=2), job("b", 60, prompt=2)])
    assert seen[0].preemptions == 1
    # Two prompts, then 48 steps until 100 tokens are cached; "b" waits, and then its 50 tokens are computed again.
    assert ends["a", 0] == pytest.approx(2 + 60)
    assert ends["b", 0] == pytest.approx(2 + 60 + 50 * 0.5 + 12, abs=1.5)


def test_an_answer_larger_than_the_cache_is_decoded_alone() -> None:
    ends, _ = decode(EngineCosts(overhead_s=1.0, kv_tokens=10.0), [job("a", 50), job("b", 5)])
    assert ends["a", 0] >= 50 and ends["b", 0] > 0


def test_the_prompt_of_a_group_is_computed_once() -> None:
    ends, _ = decode(EngineCosts(overhead_s=1.0, prefill_s=0.25), [job("a", 1, 1, 1, prompt=8)])
    assert max(ends.values()) == pytest.approx(8 * 0.25 + 1)


def test_submissions_are_decoded_one_after_another_where_the_engine_does_so() -> None:
    async def arrive(generator: SimulatedGenerator) -> None:
        await asyncio.sleep(1.0)
        await generator.submit([job("b", 2)])

    ends, _ = decode(EngineCosts(overhead_s=1.0, one_submission=True), [job("a", 5)], arrive, expected=2)
    assert ends == pytest.approx({("a", 0): 5.0, ("b", 0): 7.0})


def test_the_load_tells_what_waits_and_what_is_free() -> None:
    async def body() -> None:
        generator = SimulatedGenerator(EngineCosts(overhead_s=1.0, kv_tokens=50.0, max_sequences=3), lambda seed: seed)
        await generator.submit([job("a", 9, 9, 9, 9)])
        await asyncio.sleep(0)
        load = (await generator.collect(0.5)).load
        assert (load.waiting, load.running, load.free_sequences, load.free_kv_tokens) == (1, 3, 0, 47)
        await generator.close()

    run_virtually(body())


def test_a_grader_takes_its_time_for_each_answer_on_each_worker() -> None:
    tasks = [GradeTask(key=f"{i}", verifier="numeric", problem={}, answer="") for i in range(8)]

    async def body() -> float:
        grader = SimulatedGrader(seconds=2.0, workers=4)
        first, second = await asyncio.gather(grader.grade(tasks), grader.grade(tasks[:4]))
        assert set(first) == {task.key for task in tasks} and len(second) == 4
        return asyncio.get_running_loop().time()

    assert run_virtually(body()) == pytest.approx(12 * 2 / 4)
