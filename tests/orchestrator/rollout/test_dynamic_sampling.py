"""DAPO's dynamic sampling: groups whose rewards are equal are replaced by new prompts, up to a limit per step."""

from collections.abc import Callable

from actors.contracts import GradeTask
from configs.config import Config
from configs.load import load
from tests.orchestrator.fake_roles import ScriptedGenerator, ScriptedGrader, run
from tests.orchestrator.rollout.test_collector import collecting, positions
from trajectories.trajectory import Grade


def settings(refills: int) -> Config:
    size = ["groups_per_step=2", "sampling.group_size=2", "sampling.max_prompt_tokens=8"]
    return load([*size, f"sampling.max_refills={refills}"])


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
