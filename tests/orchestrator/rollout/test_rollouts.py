"""Rollouts: whole groups out, graded groups back, and one failure is everybody's failure."""

import asyncio
import gc
from collections.abc import Sequence
from typing import Any

import pytest

from actors.contracts import GenerationJob, GradeTask
from orchestrator.rollout.rollouts import Rollouts, answer_seed, jobs_for
from tests.orchestrator.fake_roles import ToldGenerator, ToldGrader, prompt, run
from trajectories.trajectory import Grade, Group, Prompt

LONG_S = 20.0


def work(sizes: dict[int, int], purpose: str = "train", **changes: Any) -> tuple[list[Prompt], list[GenerationJob]]:
    """Prompts at the positions named and their jobs, each with as many answers as `sizes` says."""
    prompts = [prompt(position) for position in sizes]
    settings = {"purpose": purpose, "run_seed": 0, "temperature": 1.0, "max_new_tokens": 4} | changes
    jobs = [jobs_for([p], [[5, 6]], answers=sizes[p.position], **settings)[0] for p in prompts]  # type: ignore[arg-type]
    return prompts, jobs


def texts(group: Group) -> list[str]:
    return [t.text for t in group.trajectories]


async def settled(*futures: asyncio.Future[Group]) -> list[Any]:
    """What the futures came to, exceptions too; a pending one is a failure of the test."""
    return await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), LONG_S)


def test_groups_that_complete_out_of_order_come_back_right_with_answers_by_index() -> None:
    async def body() -> None:
        generator = ToldGenerator()
        async with Rollouts([generator], [ToldGrader()], LONG_S) as rollouts:
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
        generators = [ToldGenerator(at_once=True), ToldGenerator(at_once=True)]
        async with Rollouts(generators, [ToldGrader(), ToldGrader()], LONG_S) as rollouts:
            groups = await rollouts.run(*work(dict.fromkeys(range(9), 3)))
            assert [g.prompt.position for g in groups] == list(range(9))
            assert all([t.sample_index for t in g.trajectories] == [0, 1, 2] for g in groups)
            assert await rollouts.run([], []) == []

    run(body())


def test_the_least_busy_generator_gets_the_next_group_and_groups_stay_whole() -> None:
    async def body() -> None:
        generators = [ToldGenerator(), ToldGenerator()]
        async with Rollouts(generators, [ToldGrader()], LONG_S) as rollouts:
            futures = await rollouts.submit(*work({0: 4, 1: 2, 2: 2, 3: 1}))
            assert generators[0].keys == ["train/0", "train/3"]
            assert generators[1].keys == ["train/1", "train/2"]
            assert [len(g.submissions) for g in generators] == [1, 1], "one submission each"
            for index in (0, 1):
                generators[1].finish("train/1", index)
                generators[1].finish("train/2", index)
            await settled(*futures[1:3])
            await rollouts.submit(*work({4: 4, 5: 1}))
            assert generators[1].keys[2:] == ["train/4", "train/5"], "4 answers against the 5 on their way"
            jobs = [job for g in generators for jobs in g.submissions for job in jobs]
            assert sorted(len(job.seeds) for job in jobs) == [1, 1, 2, 2, 4, 4]

    run(body())


def test_every_answer_goes_to_a_grader_as_it_ends_with_its_own_problem() -> None:
    async def body() -> None:
        generator, graders = ToldGenerator(), [ToldGrader(), ToldGrader()]
        async with Rollouts([generator], graders, LONG_S) as rollouts:
            [future] = await rollouts.submit(*work({7: 2}))
            for index, grader in enumerate(graders):
                generator.finish("train/7", index)
                while not grader.calls:
                    await asyncio.sleep(0)
                [[task]] = grader.calls
                assert task == GradeTask(
                    key=f"train/7#{index}", verifier="toy", problem={"place": 7}, answer=f"train/7/{index}"
                )
            await future

    run(body())


def test_grades_find_their_answer_by_key_not_by_order() -> None:
    def judge(task: GradeTask) -> Grade:
        return Grade(reward=float(task.answer.rsplit("/", 1)[1]), status="wrong", reason=task.answer)

    async def body() -> None:
        async with Rollouts([ToldGenerator(at_once=True)], [ToldGrader(judge)], LONG_S) as rollouts:
            for group in await rollouts.run(*work({1: 4, 2: 4})):
                assert group.rewards == [0.0, 1.0, 2.0, 3.0]
                assert [t.grade.reason for t in group.trajectories if t.grade] == texts(group)

    run(body())


def test_an_answer_the_grader_could_not_judge_has_no_reward_and_the_group_is_complete() -> None:
    def judge(task: GradeTask) -> Grade:
        failed = task.answer.endswith("/1")
        return Grade(reward=None, status="grader_error") if failed else Grade(reward=0.0, status="wrong")

    async def body() -> None:
        async with Rollouts([ToldGenerator(at_once=True)], [ToldGrader(judge)], LONG_S) as rollouts:
            [group] = await rollouts.run(*work({1: 3}))
            assert [t.reward for t in group.trajectories] == [0.0, None, 0.0]
            assert group.rewards == [0.0, 0.0]

    run(body())


def test_purposes_keep_the_same_prompt_apart() -> None:
    async def body() -> None:
        async with Rollouts([ToldGenerator(at_once=True)], [ToldGrader()], LONG_S) as rollouts:
            train, heldout = await asyncio.gather(
                rollouts.run(*work({1: 2})), rollouts.run(*work({1: 2}, purpose="heldout"))
            )
            assert [texts(g)[0] for g in (*train, *heldout)] == ["train/1/0", "heldout/1/0"]

    run(body())


async def everything_fails(
    rollouts: Rollouts, futures: Sequence[asyncio.Future[Group]], kind: type[Exception], words: str
) -> None:
    outcomes = await settled(*futures)
    assert [type(outcome) for outcome in outcomes] == [kind] * len(futures)
    assert all(words in str(outcome) for outcome in outcomes)
    with pytest.raises(kind, match=words):
        await rollouts.submit(*work({99: 1}))


def test_a_generator_that_fails_fails_every_group_and_every_later_submission() -> None:
    async def body() -> None:
        generators = [ToldGenerator(), ToldGenerator()]
        async with Rollouts(generators, [ToldGrader()], LONG_S) as rollouts:
            futures = await rollouts.submit(*work({0: 1, 1: 1, 2: 1}))
            generators[1].error = RuntimeError("the engine broke")
            await everything_fails(rollouts, futures, RuntimeError, "the engine broke")

    run(body())


def test_a_generator_that_refuses_a_submission_fails_every_group_and_every_later_submission() -> None:
    async def body() -> None:
        generators = [ToldGenerator(), ToldGenerator()]
        async with Rollouts(generators, [ToldGrader()], LONG_S) as rollouts:
            futures = await rollouts.submit(*work({0: 2, 1: 1}))
            generators[1].refusal = RuntimeError("too much")
            with pytest.raises(RuntimeError, match="too much"):
                await rollouts.submit(*work({2: 1}))
            generators[1].refusal = None
            await everything_fails(rollouts, futures, RuntimeError, "too much")

    run(body())


def test_a_grader_that_fails_fails_every_group_and_every_later_submission() -> None:
    def judge(task: GradeTask) -> Grade:
        raise RuntimeError("the grader broke")

    async def body() -> None:
        generators = [ToldGenerator(), ToldGenerator()]
        async with Rollouts(generators, [ToldGrader(judge)], LONG_S) as rollouts:
            futures = await rollouts.submit(*work({0: 2, 1: 2}))
            generators[0].finish("train/0", 0)
            await everything_fails(rollouts, futures, RuntimeError, "the grader broke")

    run(body())


def test_a_grader_that_leaves_an_answer_out_is_a_failure() -> None:
    class Forgetful(ToldGrader):
        async def grade(self, tasks: Sequence[GradeTask]) -> dict[str, Grade]:
            return {key: grade for key, grade in (await super().grade(tasks)).items() if not key.endswith("#1")}

    async def body() -> None:
        async with Rollouts([ToldGenerator(at_once=True)], [Forgetful()], LONG_S) as rollouts:
            futures = await rollouts.submit(*work({0: 2}))
            await everything_fails(rollouts, futures, AssertionError, "left out")

    run(body())


def test_a_generator_that_finishes_nothing_while_it_has_work_is_a_failure() -> None:
    async def body() -> None:
        async with Rollouts([ToldGenerator(), ToldGenerator()], [ToldGrader()], 0.05) as rollouts:
            futures = await rollouts.submit(*work({0: 1, 1: 1}))
            await everything_fails(rollouts, futures, RuntimeError, "finished no answer")

    run(body())


def test_a_generator_without_work_is_not_asked_and_its_silence_is_no_failure() -> None:
    async def body() -> None:
        generator = ToldGenerator(at_once=True)
        async with Rollouts([generator], [ToldGrader()], 0.05) as rollouts:
            await rollouts.run(*work({0: 1}))
            asked = generator.collecting
            await asyncio.sleep(0.2)
            assert generator.collecting == asked
            assert len(await rollouts.run(*work({1: 1}))) == 1

    run(body())


def test_slow_grading_is_not_held_against_the_generator() -> None:
    async def body() -> None:
        grader = ToldGrader()
        grader.open.clear()
        async with Rollouts([ToldGenerator(at_once=True)], [grader], 0.05) as rollouts:
            [future] = await rollouts.submit(*work({0: 2}))
            await asyncio.sleep(0.2)
            grader.open.set()
            assert len((await future).trajectories) == 2

    run(body())


def test_leaving_cancels_what_is_on_its_way_and_every_task() -> None:
    async def body() -> None:
        before = asyncio.all_tasks()
        generators, grader = [ToldGenerator(), ToldGenerator()], ToldGrader()
        grader.open.clear()
        async with Rollouts(generators, [grader], LONG_S) as rollouts:
            futures = await rollouts.submit(*work({0: 1, 1: 1}))
            generators[0].finish("train/0", 0)
            while not grader.calls:
                await asyncio.sleep(0)
        assert all(future.cancelled() for future in futures)
        assert asyncio.all_tasks() == before

    run(body())


def test_groups_nobody_awaits_fail_without_a_line_from_asyncio(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        generator = ToldGenerator()
        async with Rollouts([generator], [ToldGrader()], LONG_S) as rollouts:
            futures = await rollouts.submit(*work({0: 1, 1: 1, 2: 1}))
            generator.error = RuntimeError("the engine broke")
            await settled(futures[0])

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
