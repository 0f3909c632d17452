"""Rollouts whose generators and graders are lost: no answer is missing or twice, and seeds stay."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from actors.contracts import GradeTask
from actors.presence import RoleLost
from orchestrator.rollout.jobs import answer_seed
from orchestrator.rollout.rollouts import Rollouts
from tests.orchestrator.fake_roles import ScriptedGenerator, ScriptedGrader, run
from tests.orchestrator.rollout.test_rollouts import LONG_S, texts, work
from trajectories.trajectory import Grade, Group


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def watched(generators: Sequence[ScriptedGenerator], **settings: Any) -> tuple[Rollouts, list[ScriptedGenerator]]:
    """Rollouts that go on without a generator that was lost, and the list of those."""
    lost: list[ScriptedGenerator] = []
    rollouts = Rollouts(generators, [ScriptedGrader()], LONG_S, **settings)

    def leave(generator: Any, error: Exception) -> bool:
        if generator not in lost:
            lost.append(generator)
            rollouts.leave(generator)
        return True

    rollouts.lost = leave
    return rollouts, lost


def seeds_are_those_of(group: Group, position: int) -> bool:
    return [t.seed for t in group.trajectories] == [
        answer_seed(0, f"train/{position}", index) for index in range(len(group.trajectories))
    ]


@pytest.mark.parametrize("at", ["collect", "submit"])
def test_the_missing_answers_of_a_lost_generator_are_generated_by_the_others_with_their_own_seeds(at: str) -> None:
    async def body() -> None:
        generators = [ScriptedGenerator(), ScriptedGenerator()]
        rollouts, lost = watched(generators)
        async with rollouts:
            if at == "submit":
                generators[0].submit_error = RoleLost("generator 0: its process died")
            futures = await rollouts.submit(*work({0: 3, 1: 2}))
            kept: set[int] = set()
            if at == "collect":
                generators[0].finish("train/0", 1)
                await until(lambda: rollouts._pending["train/0"].ungraded == 2)
                kept = {1}
                generators[0].error = RoleLost("generator 0: its process died")
            await until(lambda: len(generators[1].keys) == 2)
            assert lost == [generators[0]]
            [again] = [job for jobs in generators[1].submissions for job in jobs if job.key.startswith("train/0")]
            asked = [index for index in range(3) if index not in kept]
            assert again.seeds == tuple(answer_seed(0, "train/0", index) for index in asked)
            generators[1].finish(again.key, *range(len(asked)))
            generators[1].finish("train/1", 0, 1)
            groups = await asyncio.wait_for(asyncio.gather(*futures), LONG_S)
            assert [t.sample_index for t in groups[0].trajectories] == [0, 1, 2]
            assert all(seeds_are_those_of(group, i) for i, group in enumerate(groups))

    run(body())


def test_a_generator_that_is_back_gets_groups_again_and_none_before() -> None:
    async def body() -> None:
        generators = [ScriptedGenerator(), ScriptedGenerator(at_once=True)]
        rollouts, lost = watched(generators)
        async with rollouts:
            generators[0].error = RoleLost("generator 0: its process died")
            assert len(await rollouts.run(*work({0: 1}))) == 1
            assert lost == [generators[0]]
            await rollouts.run(*work({1: 1, 2: 1, 3: 1}))
            assert generators[0].keys == ["train/0"]
            generators[0].error = None
            generators[0].at_once = True
            rollouts.enter(generators[0])
            await rollouts.run(*work({4: 1, 5: 1}))
            assert generators[0].keys == ["train/0", "train/4"]

    run(body())


def test_groups_wait_where_no_generator_is_left_and_go_on_when_one_is_back() -> None:
    async def body() -> None:
        [generator] = generators = [ScriptedGenerator(at_once=True)]
        rollouts, _ = watched(generators)
        async with rollouts:
            generator.submit_error = RoleLost("generator 0: its process died")
            first = await rollouts.submit(*work({0: 2}))
            second = await rollouts.submit(*work({1: 2}))
            await asyncio.sleep(0.05)
            assert not first[0].done() and not second[0].done()
            generator.submit_error = None
            rollouts.enter(generator)
            groups = await asyncio.wait_for(asyncio.gather(*first, *second), LONG_S)
            assert all(seeds_are_those_of(group, i) for i, group in enumerate(groups))

    run(body())


def test_in_a_repeatable_run_the_same_generator_decodes_its_whole_submission_again_and_counts_each_answer_once() -> (
    None
):
    async def body() -> None:
        generators = [ScriptedGenerator(), ScriptedGenerator()]
        rollouts, _ = watched(generators, repeatable=True)
        async with rollouts:
            futures = await rollouts.submit(*work({0: 2, 1: 2, 2: 1}))
            assert generators[0].keys == ["train/0", "train/2"]
            generators[0].finish("train/0", 0, 1)
            await futures[0]
            generators[0].error = RoleLost("generator 0: its process died")
            await until(lambda: rollouts._bound[0].state == "absent")
            more = await rollouts.submit(*work({3: 1, 4: 1}))
            generators[0].error = None
            rollouts.enter(generators[0])
            await until(lambda: len(generators[0].submissions) == 3)
            again, later = generators[0].submissions[1:]
            assert [(job.key, job.seeds) for job in again] == [
                (f"{job.key}/again-2", job.seeds) for job in generators[0].submissions[0]
            ], "the engine decodes the same batch"
            assert [job.key for job in later] == ["train/4"], "what it would have got if it had been there"
            for job in (*again, *later):
                generators[0].finish(job.key, *range(len(job.seeds)))
            generators[1].finish("train/1", 0, 1)
            generators[1].finish("train/3", 0)
            groups = await asyncio.wait_for(asyncio.gather(*futures, *more), LONG_S)
            assert [len(group.trajectories) for group in groups] == [2, 2, 1, 1, 1]
            assert texts(groups[0]) == ["train/0/0", "train/0/1"], "those that were finished first are kept"

    run(body())


def test_in_a_repeatable_run_the_others_take_over_when_a_generator_is_left_out() -> None:
    async def body() -> None:
        generators = [ScriptedGenerator(), ScriptedGenerator(at_once=True)]
        rollouts, _ = watched(generators, repeatable=True)
        async with rollouts:
            futures = await rollouts.submit(*work({0: 2, 1: 2}))
            generators[0].error = RoleLost("generator 0: its process died")
            await until(lambda: rollouts._bound[0].state == "absent")
            assert not futures[0].done()
            rollouts.leave_out(generators[0])
            groups = await asyncio.wait_for(asyncio.gather(*futures), LONG_S)
            assert all(seeds_are_those_of(group, i) for i, group in enumerate(groups))

    run(body())


class DyingGrader(ScriptedGrader):
    """Is lost in every call while `dead`."""

    dead = True

    async def grade(self, tasks: Sequence[GradeTask]) -> dict[str, Grade]:
        if self.dead:
            self.calls.append(list(tasks))
            raise RoleLost("grader 0: its process died before grade ended")
        return await super().grade(tasks)


@pytest.mark.parametrize("others", [0, 1])
def test_answers_of_a_lost_grader_are_graded_by_another_or_by_itself_when_it_is_back(others: int) -> None:
    async def body() -> None:
        dying, rest = DyingGrader(), [ScriptedGrader() for _ in range(others)]
        async with Rollouts([ScriptedGenerator(at_once=True)], [dying, *rest], LONG_S) as rollouts:

            def lost(grader: Any, error: Exception) -> bool:
                rollouts.graders.leave(grader)
                return True

            rollouts.graders.lost = lost
            [future] = await rollouts.submit(*work({0: 3}))
            if not others:
                await until(lambda: bool(dying.calls))
                await asyncio.sleep(0.02)
                assert not future.done()
                dying.dead = False
                rollouts.graders.enter(dying)
            group = await asyncio.wait_for(future, LONG_S)
            assert [t.grade.reason for t in group.trajectories if t.grade] == texts(group)
            assert len(dying.calls) == 1 + (not others)

    run(body())


def test_a_failure_ends_the_wait_for_a_grader() -> None:
    async def body() -> None:
        async with Rollouts([ScriptedGenerator(at_once=True)], [DyingGrader()], LONG_S) as rollouts:

            def lost(grader: Any, error: Exception) -> bool:
                rollouts.graders.leave(grader)
                return True

            rollouts.graders.lost = lost
            [future] = await rollouts.submit(*work({0: 1}))
            await asyncio.sleep(0.02)
            rollouts.graders.fail(RuntimeError("no grader is left"))
            with pytest.raises(RuntimeError, match="no grader is left"):
                await asyncio.wait_for(future, LONG_S)

    run(body())
