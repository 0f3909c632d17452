"""Rollouts: graded groups of every prompt, over several generators and graders; one failure fails every group."""

import asyncio
import gc
import time
from collections.abc import Sequence
from typing import Any

import pytest

from actors.contracts import GenerationJob, GradeTask
from actors.finished import EngineLoad
from actors.presence import RoleLost
from orchestrator.rollout.jobs import answer_seed, jobs_for
from orchestrator.rollout.rollouts import POLL_S, Rollouts
from tests.orchestrator.fake_roles import ScriptedGenerator, ScriptedGrader, prompt, run
from trajectories.trajectory import Grade, Group, Prompt

LONG_S = 20.0


def work(sizes: dict[int, int], purpose: str = "train", **changes: Any) -> tuple[list[Prompt], list[GenerationJob]]:
    """Prompts and their jobs; `sizes` maps positions to answers per prompt."""
    prompts = [prompt(position) for position in sizes]
    settings = {"purpose": purpose, "run_seed": 0, "temperature": 1.0, "max_new_tokens": 4} | changes
    jobs = [jobs_for([p], [[5, 6]], answers=sizes[p.position], **settings)[0] for p in prompts]  # type: ignore[arg-type]
    return prompts, jobs


def texts(group: Group) -> list[str]:
    return [t.text for t in group.trajectories]


async def outcomes_of(*futures: asyncio.Future[Group]) -> list[Any]:
    """Results or exceptions of the futures; one still pending after LONG_S fails the test."""
    return await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), LONG_S)


def test_groups_that_complete_out_of_order_have_their_own_answers_sorted_by_index() -> None:
    async def body() -> None:
        generator = ScriptedGenerator()
        async with Rollouts([generator], [ScriptedGrader()], LONG_S) as rollouts:
            first, second = await rollouts.submit(*work({3: 2, 4: 3}))
            generator.finish("train/4", 2, 0)
            generator.finish("train/3", 1)
            generator.finish("train/4", 1)
            group = await second
            assert group.prompt == prompt(4)
            assert texts(group) == ["train/4/0", "train/4/1", "train/4/2"]
            assert not first.done(), "one answer is still missing"
            generator.finish("train/3", 0)
            assert texts(await first) == ["train/3/0", "train/3/1"]

    run(body())


def test_run_returns_groups_in_the_order_of_the_prompts() -> None:
    async def body() -> None:
        generators = [ScriptedGenerator(at_once=True), ScriptedGenerator(at_once=True)]
        async with Rollouts(generators, [ScriptedGrader(), ScriptedGrader()], LONG_S) as rollouts:
            groups = await rollouts.run(*work(dict.fromkeys(range(9), 3)))
            assert [g.prompt.position for g in groups] == list(range(9))
            assert all([t.sample_index for t in g.trajectories] == [0, 1, 2] for g in groups)
            assert await rollouts.run([], []) == []

    run(body())


def test_the_least_busy_generator_gets_the_next_group_and_groups_stay_whole() -> None:
    async def body() -> None:
        generators = [ScriptedGenerator(), ScriptedGenerator()]
        async with Rollouts(generators, [ScriptedGrader()], LONG_S) as rollouts:
            futures = await rollouts.submit(*work({0: 4, 1: 2, 2: 2, 3: 1}))
            assert generators[0].keys == ["train/0", "train/3"]
            assert generators[1].keys == ["train/1", "train/2"]
            assert [len(g.submissions) for g in generators] == [1, 1], "one submission each"
            for index in (0, 1):
                generators[1].finish("train/1", index)
                generators[1].finish("train/2", index)
            await outcomes_of(*futures[1:3])
            await rollouts.submit(*work({4: 4, 5: 1}))
            assert generators[1].keys[2:] == ["train/4", "train/5"], "4 pending answers against 5"
            jobs = [job for g in generators for jobs in g.submissions for job in jobs]
            assert sorted(len(job.seeds) for job in jobs) == [1, 1, 2, 2, 4, 4]

    run(body())


def test_every_answer_goes_to_a_grader_as_it_ends_with_its_own_problem() -> None:
    async def body() -> None:
        generator, graders = ScriptedGenerator(), [ScriptedGrader(), ScriptedGrader()]
        async with Rollouts([generator], graders, LONG_S) as rollouts:
            [future] = await rollouts.submit(*work({7: 2}))
            for index, grader in enumerate(graders):
                generator.finish("train/7", index)
                while not grader.calls:
                    await asyncio.sleep(0)
                [[task]] = grader.calls
                assert task == GradeTask(
                    key=f"train/7#{index}",
                    verifier="toy",
                    problem={"place": 7},
                    answer=f"train/7/{index}",
                    context=task.context,
                )
                assert sorted(task.context) == ["completion_ids", "domain", "messages", "prompt", "step"]
            await future

    run(body())


def test_grades_are_matched_to_answers_by_key_not_by_order() -> None:
    def judge(task: GradeTask) -> Grade:
        return Grade(reward=float(task.answer.rsplit("/", 1)[1]), status="wrong", reason=task.answer)

    async def body() -> None:
        async with Rollouts([ScriptedGenerator(at_once=True)], [ScriptedGrader(judge)], LONG_S) as rollouts:
            for group in await rollouts.run(*work({1: 4, 2: 4})):
                assert group.rewards == [0.0, 1.0, 2.0, 3.0]
                assert [t.grade.reason for t in group.trajectories if t.grade] == texts(group)

    run(body())


def test_an_answer_whose_grader_failed_has_no_reward_and_the_group_is_complete() -> None:
    def judge(task: GradeTask) -> Grade:
        failed = task.answer.endswith("/1")
        return Grade(reward=None, status="grader_error") if failed else Grade(reward=0.0, status="wrong")

    async def body() -> None:
        async with Rollouts([ScriptedGenerator(at_once=True)], [ScriptedGrader(judge)], LONG_S) as rollouts:
            [group] = await rollouts.run(*work({1: 3}))
            assert [t.reward for t in group.trajectories] == [0.0, None, 0.0]
            assert group.rewards == [0.0, 0.0]

    run(body())


def test_jobs_of_one_prompt_for_different_purposes_are_separate() -> None:
    async def body() -> None:
        async with Rollouts([ScriptedGenerator(at_once=True)], [ScriptedGrader()], LONG_S) as rollouts:
            train, heldout = await asyncio.gather(
                rollouts.run(*work({1: 2})), rollouts.run(*work({1: 2}, purpose="heldout"))
            )
            assert [texts(g)[0] for g in (*train, *heldout)] == ["train/1/0", "heldout/1/0"]

    run(body())


async def everything_fails(
    rollouts: Rollouts, futures: Sequence[asyncio.Future[Group]], kind: type[Exception], words: str
) -> None:
    outcomes = await outcomes_of(*futures)
    assert [type(outcome) for outcome in outcomes] == [kind] * len(futures)
    assert all(words in str(outcome) for outcome in outcomes)
    with pytest.raises(kind, match=words):
        await rollouts.submit(*work({99: 1}))


def test_a_generator_that_fails_fails_every_group_and_every_later_submission() -> None:
    async def body() -> None:
        generators = [ScriptedGenerator(), ScriptedGenerator()]
        async with Rollouts(generators, [ScriptedGrader()], LONG_S) as rollouts:
            futures = await rollouts.submit(*work({0: 1, 1: 1, 2: 1}))
            generators[1].error = RuntimeError("the engine broke")
            await everything_fails(rollouts, futures, RuntimeError, "the engine broke")

    run(body())


def test_a_generator_whose_submit_raises_fails_every_group_and_every_later_submission() -> None:
    async def body() -> None:
        generators = [ScriptedGenerator(), ScriptedGenerator()]
        async with Rollouts(generators, [ScriptedGrader()], LONG_S) as rollouts:
            futures = await rollouts.submit(*work({0: 2, 1: 1}))
            generators[1].submit_error = RuntimeError("too much")
            with pytest.raises(RuntimeError, match="too much"):
                await rollouts.submit(*work({2: 1}))
            generators[1].submit_error = None
            await everything_fails(rollouts, futures, RuntimeError, "too much")

    run(body())


def test_a_grader_that_fails_fails_every_group_and_every_later_submission() -> None:
    def judge(task: GradeTask) -> Grade:
        raise RuntimeError("the grader broke")

    async def body() -> None:
        generators = [ScriptedGenerator(), ScriptedGenerator()]
        async with Rollouts(generators, [ScriptedGrader(judge)], LONG_S) as rollouts:
            futures = await rollouts.submit(*work({0: 2, 1: 2}))
            generators[0].finish("train/0", 0)
            await everything_fails(rollouts, futures, RuntimeError, "the grader broke")

    run(body())


def test_a_grader_that_returns_no_grade_for_an_answer_is_an_error() -> None:
    class IncompleteGrader(ScriptedGrader):
        async def grade(self, tasks: Sequence[GradeTask]) -> dict[str, Grade]:
            return {key: grade for key, grade in (await super().grade(tasks)).items() if not key.endswith("#1")}

    async def body() -> None:
        async with Rollouts([ScriptedGenerator(at_once=True)], [IncompleteGrader()], LONG_S) as rollouts:
            futures = await rollouts.submit(*work({0: 2}))
            await everything_fails(rollouts, futures, AssertionError, "returned no grade for")

    run(body())


def test_a_generator_that_generates_no_token_while_it_has_work_is_an_error_with_its_number() -> None:
    async def body() -> None:
        generators = [ScriptedGenerator(), ScriptedGenerator()]
        generators[1].silent = True
        async with Rollouts(generators, [ScriptedGrader()], 3.0) as rollouts:
            futures = await rollouts.submit(*work({0: 1, 1: 1}))
            await everything_fails(rollouts, futures, RoleLost, "generator 1 generated no token for 3 s")

    run(body())


def test_an_answer_that_takes_longer_than_the_limit_is_no_failure_while_tokens_come() -> None:
    async def body() -> None:
        generator = ScriptedGenerator()
        async with Rollouts([generator], [ScriptedGrader()], 3.0) as rollouts:
            [future] = await rollouts.submit(*work({0: 1}))
            while generator.collecting < 20:  # each has waited for a second, as far as the limit is concerned
                await asyncio.sleep(0.01)
            assert not future.done()
            generator.finish("train/0", 0)
            assert texts(await future) == ["train/0/0"]

    run(body())


def test_an_event_loop_that_is_blocked_for_longer_than_the_limit_does_not_fail_a_generator() -> None:
    async def body() -> None:
        generator = ScriptedGenerator()
        generator.silent = True
        async with Rollouts([generator], [ScriptedGrader()], POLL_S * 1.5) as rollouts:
            [future] = await rollouts.submit(*work({0: 1}))
            while not generator.collecting:
                await asyncio.sleep(0)
            time.sleep(POLL_S * 2)  # the empty collection is late; it counts as what it had waited
            while generator.collecting < 2:
                await asyncio.sleep(0)
            generator.finish("train/0", 0)
            assert texts(await future) == ["train/0/0"]

    run(body())


def test_a_generator_without_work_is_not_polled_and_is_not_silent() -> None:
    async def body() -> None:
        generator = ScriptedGenerator(at_once=True)
        generator.silent = True
        async with Rollouts([generator], [ScriptedGrader()], 0.05) as rollouts:
            await rollouts.run(*work({0: 1}))
            polls = generator.collecting
            await asyncio.sleep(0.2)
            assert generator.collecting == polls
            assert len(await rollouts.run(*work({1: 1}))) == 1

    run(body())


def test_a_generator_that_sleeps_with_work_to_do_is_not_silent_until_it_is_woken() -> None:
    async def body() -> None:
        generator = ScriptedGenerator()
        generator.silent, generator.load = True, EngineLoad(asleep=True)
        async with Rollouts([generator], [ScriptedGrader()], 3.0) as rollouts:
            futures = await rollouts.submit(*work({0: 1}))
            while generator.collecting < 20:  # each has waited for a second, as far as the limit is concerned
                await asyncio.sleep(0.01)
            assert not futures[0].done()
            generator.load = EngineLoad()
            await everything_fails(rollouts, futures, RoleLost, "generator 0 generated no token for 3 s")

    run(body())


def test_slow_grading_does_not_count_as_silence_of_the_generator() -> None:
    async def body() -> None:
        grader = ScriptedGrader()
        grader.open.clear()
        async with Rollouts([ScriptedGenerator(at_once=True)], [grader], 0.05) as rollouts:
            [future] = await rollouts.submit(*work({0: 2}))
            await asyncio.sleep(0.2)
            grader.open.set()
            assert len((await future).trajectories) == 2

    run(body())


def test_leaving_the_context_cancels_pending_groups_and_every_task() -> None:
    async def body() -> None:
        before = asyncio.all_tasks()
        generators, grader = [ScriptedGenerator(), ScriptedGenerator()], ScriptedGrader()
        grader.open.clear()
        async with Rollouts(generators, [grader], LONG_S) as rollouts:
            futures = await rollouts.submit(*work({0: 1, 1: 1}))
            generators[0].finish("train/0", 0)
            while not grader.calls:
                await asyncio.sleep(0)
        assert all(future.cancelled() for future in futures)
        assert asyncio.all_tasks() == before

    run(body())


def test_failed_groups_that_are_not_awaited_cause_no_warning_of_asyncio(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        generator = ScriptedGenerator()
        async with Rollouts([generator], [ScriptedGrader()], LONG_S) as rollouts:
            futures = await rollouts.submit(*work({0: 1, 1: 1, 2: 1}))
            generator.error = RuntimeError("the engine broke")
            await outcomes_of(futures[0])

    run(body())
    gc.collect()
    assert caplog.records == []


def seeds(position: int = 3, answers: int = 4, purpose: str = "train", run_seed: int = 0, text: str = "a") -> list[int]:
    row = [ord(character) for character in text]
    [job] = jobs_for(
        [prompt(position, text)],
        [row],
        purpose=purpose,
        run_seed=run_seed,
        answers=answers,
        temperature=1.0,
        max_new_tokens=4,
    )
    assert (job.key, job.prompt_id) == (f"{purpose}/{position}", f"toy/{position}")
    assert job.prompt_tokens.tolist() == row
    return list(job.seeds)


def test_seeds_depend_on_run_seed_purpose_position_and_index_alone() -> None:
    assert seeds() == seeds(text="another prompt")
    assert seeds(answers=9)[:4] == seeds()
    assert seeds() == [answer_seed(0, "train/3", index) for index in range(4)]
    for other in (seeds(position=4), seeds(purpose="heldout"), seeds(run_seed=1)):
        assert not set(other) & set(seeds())


def test_seeds_are_unique_within_a_run_and_fit_31_bits() -> None:
    drawn = [seed for purpose in ("train", "heldout") for p in range(250) for seed in seeds(p, 16, purpose)]
    assert len(set(drawn)) == len(drawn) == 8000
    assert all(0 <= seed < 2**31 for seed in drawn)
    assert max(drawn) > 2**30, "all bits are used"
