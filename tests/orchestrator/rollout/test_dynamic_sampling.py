"""DAPO's dynamic sampling: groups whose rewards are equal are replaced by new prompts, up to a limit per step."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from actors.contracts import GradeTask
from configs.config import Config
from configs.load import load
from tests.orchestrator.fake_roles import ScriptedGenerator, ScriptedGrader, run
from tests.orchestrator.rollout.test_collector import collecting, positions
from trajectories.trajectory import Grade, Group


def settings(refills: int, *more: str) -> Config:
    size = ["groups_per_step=2", "sampling.group_size=2", "sampling.max_prompt_tokens=8"]
    return load([*size, f"sampling.max_refills={refills}", *more])


def judge(has_signal: Callable[[int], bool]) -> ScriptedGrader:
    """A grader of groups of 2: rewards 0 and 1 at the positions with a signal, 1 and 1 at the others."""

    def grade(task: GradeTask) -> Grade:
        first = task.answer.endswith("/0") and has_signal(task.problem["place"])
        return Grade(reward=0.0 if first else 1.0, status="correct")

    return ScriptedGrader(grade)


def test_groups_whose_rewards_are_equal_are_replaced_in_rounds_and_order_is_kept() -> None:
    async def body() -> None:
        generator = ScriptedGenerator(at_once=True)
        grader = judge(lambda position: position % 3 == 0)
        async with collecting(generator, settings(10), grader=grader) as collector:
            groups = await collector.take(2)
            assert positions(groups) == [0, 3]
            assert [len(jobs) for jobs in generator.submissions] == [2, 1, 1]
            assert collector.stats()["dropped_groups"] == 2.0
            collector.release(groups)
            assert positions(await collector.take(2)) == [6, 9]

    run(body())


@pytest.mark.parametrize("at_once", ["lag=1", "placement.device=gpu"])
def test_a_replacement_is_admitted_at_once_where_runs_are_not_repeatable(at_once: str) -> None:
    async def body() -> None:
        generator = ScriptedGenerator()
        cfg = settings(10, at_once)
        async with collecting(generator, cfg, grader=judge(lambda position: position != 1)) as collector:
            while len(generator.keys) < cfg.window_slots:
                await asyncio.sleep(0)
            generator.finish("train/1", 0, 1)
            while len(generator.keys) == cfg.window_slots:
                await asyncio.sleep(0)
            assert generator.keys[-1] == f"train/{cfg.window_slots}", "while all other groups are in flight"
            for key in ("train/0", "train/2"):
                generator.finish(key, 0, 1)
            assert positions(await collector.take(2)) == [0, 2]

    run(body())


def test_a_replacement_waits_for_all_groups_in_flight_where_runs_are_repeatable() -> None:
    async def body() -> None:
        generator = ScriptedGenerator()
        async with collecting(generator, settings(10), grader=judge(lambda position: position != 1)) as collector:
            while len(generator.keys) < 2:
                await asyncio.sleep(0)
            generator.finish("train/1", 0, 1)
            await asyncio.sleep(0.05)
            assert generator.keys == ["train/0", "train/1"]
            generator.finish("train/0", 0, 1)
            while len(generator.keys) < 3:
                await asyncio.sleep(0)
            generator.finish("train/2", 0, 1)
            assert positions(await collector.take(2)) == [0, 2]

    run(body())


def test_a_step_replaces_a_limited_number_of_groups_and_then_uses_groups_without_a_signal() -> None:
    async def body() -> None:
        generator = ScriptedGenerator(at_once=True)
        async with collecting(generator, settings(3), grader=judge(lambda _: False)) as collector:
            groups = await collector.take(2)
            assert positions(groups) == [6, 7], "2 groups a step, 3 times over"
            collector.release(groups)
            assert positions(await collector.take(2)) == [14, 15], "the next step may replace as many again"

    run(body())


def test_replaced_groups_do_not_shorten_the_run() -> None:
    async def body() -> None:
        generator = ScriptedGenerator(at_once=True)
        grader = judge(lambda position: position >= 2)
        async with collecting(generator, settings(10), grader=grader, groups_left=4) as collector:
            groups = await collector.take(2)
            collector.release(groups)
            assert positions([*groups, *await collector.take(2)]) == [2, 3, 4, 5]

    run(body())


def test_dropped_groups_with_an_answer_that_could_not_be_graded_are_handed_over_once() -> None:
    def grade(task: GradeTask) -> Grade:
        failed = task.problem["place"] == 0 and task.answer.endswith("/0")
        reward = float(task.problem["place"] >= 2 and task.answer.endswith("/0"))
        return Grade(reward=None, status="grader_error") if failed else Grade(reward=reward, status="wrong")

    async def body() -> None:
        generator = ScriptedGenerator(at_once=True)
        async with collecting(generator, settings(10), grader=ScriptedGrader(grade)) as collector:
            assert positions(await collector.take(2)) == [2, 3]
            assert positions(collector.take_dropped_ungraded()) == [0]
            assert collector.take_dropped_ungraded() == []

    run(body())


def test_without_refills_every_group_is_used() -> None:
    async def body() -> None:
        generator = ScriptedGenerator(at_once=True)
        async with collecting(generator, settings(0), grader=judge(lambda _: False)) as collector:
            assert positions(await collector.take(2)) == [0, 1]
            assert "dropped_groups" not in collector.stats()

    run(body())


def test_a_complete_group_is_scored_while_others_are_generated_and_a_dropped_one_is_not() -> None:
    scored: list[int] = []

    async def score(group: Group) -> Group:
        scored.append(group.prompt.position)
        await asyncio.sleep(0)
        return replace(group, trajectories=tuple(replace(t, logp_anchors={"t": t.mask}) for t in group.trajectories))

    async def body() -> None:
        generator = ScriptedGenerator()
        cfg, grader = settings(10, "lag=1"), judge(lambda position: position != 1)
        async with collecting(generator, cfg, grader=grader, score=score) as collector:
            while len(generator.keys) < 4:
                await asyncio.sleep(0)
            for key in ("train/1", "train/0"):
                generator.finish(key, 0, 1)
            while not scored:
                await asyncio.sleep(0)
            generator.finish("train/2", 0, 1)
            groups = await collector.take(2)
            assert positions(groups) == scored == [0, 2]
            assert all(t.logp_anchors for group in groups for t in group.trajectories)

    run(body())


def test_an_error_of_the_scores_reaches_the_training_loop() -> None:
    async def score(group: Group) -> Group:
        raise RuntimeError("reference 0: its process died")

    async def body() -> None:
        async with collecting(ScriptedGenerator(at_once=True), settings(0, "lag=1"), score=score) as collector:
            with pytest.raises(RuntimeError, match="reference 0"):
                await collector.take(2)

    run(body())
