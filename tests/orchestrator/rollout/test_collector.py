"""Collector: groups in the order of their prompts, generated at most a window ahead; errors reach `take`."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Container
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from actors.contracts import GradeTask
from configs.config import Config
from configs.load import load
from orchestrator.rollout.collector import Collector, Stopped
from orchestrator.rollout.grading import NothingGraded
from orchestrator.rollout.rollouts import Rollouts
from orchestrator.stored.experience import Experience, Question
from tests.orchestrator.fake_roles import ScriptedGenerator, ScriptedGrader, prompt, run
from tests.trajectories.given_lengths import trajectory
from trajectories.trajectory import Grade, Group, Prompt

LIMIT = 8
"""Maximum tokens of a prompt; one token is one character here."""


class Stream:
    """A source whose prompts are too long at the positions in `long`."""

    def __init__(self, long: Container[int] = ()) -> None:
        self.long = long
        self.drawn: list[int] = []
        """Positions of the prompts that were drawn, in order."""

    def prompt(self, position: int) -> Prompt:
        self.drawn.append(position)
        return prompt(position, "x" * (LIMIT + (position in self.long)))

    def heldout(self, count: int) -> list[Prompt]:
        raise NotImplementedError

    def demonstration(self, position: int) -> tuple[Prompt, str]:
        raise NotImplementedError


def settings(lag: int = 0, per_step: int = 2, *more: str) -> Config:
    size = ["sampling.group_size=2", f"sampling.max_prompt_tokens={LIMIT}"]
    return load([f"lag={lag}", f"groups_per_step={per_step}", *size, *more])


@asynccontextmanager
async def collecting(
    generator: ScriptedGenerator,
    cfg: Config,
    *,
    long: Container[int] = (),
    groups_left: int = 1000,
    position: int = 0,
    excluded: Container[str] = (),
    grader: ScriptedGrader | None = None,
    experience: Experience | None = None,
    trained: Collection[int] = (),
    score: Callable[[Group], Awaitable[Group]] | None = None,
) -> Any:
    async with Rollouts([generator], [grader or ScriptedGrader()], 20.0) as rollouts:
        collector = Collector(
            cfg,
            Stream(long),
            lambda prompt: [ord(character) for character in prompt.text],
            rollouts,
            position=position,
            groups_left=groups_left,
            excluded=excluded,
            experience=experience,
            trained=trained,
            score=score,
        )
        async with collector:
            yield collector


def positions(groups: list[Group]) -> list[int]:
    return [group.prompt.position for group in groups]


def test_groups_come_in_the_order_of_their_prompts_whatever_finishes_first() -> None:
    async def body() -> None:
        generator = ScriptedGenerator()
        async with collecting(generator, settings(), position=7) as collector:
            waiting = asyncio.create_task(collector.take(2))
            while generator.keys != ["train/7", "train/8"]:
                await asyncio.sleep(0)
            generator.finish("train/8", 0, 1)
            await asyncio.sleep(0.05)
            assert not waiting.done(), "the oldest is not complete"
            generator.finish("train/7", 1, 0)
            groups = await waiting
            assert positions(groups) == [7, 8]
            assert [len(group.trajectories) for group in groups] == [2, 2]

    run(body())


def test_in_any_order_complete_groups_are_taken_before_slower_ones_and_a_resumed_run_answers_those() -> None:
    cfg = settings(2, 2, "take=any_order")

    async def body() -> None:
        generator = ScriptedGenerator()
        async with collecting(generator, cfg, groups_left=12) as collector:
            seen: list[int] = []
            for _ in range(2):
                while len(generator.keys) < 4 + len(seen):
                    await asyncio.sleep(0)
                for position in (0, 2, 3) if not seen else (4, 5):
                    generator.finish(f"train/{position}", 0, 1)
                groups = await asyncio.wait_for(collector.take(2), 10)
                seen += positions(groups)
                collector.release(groups)
            assert seen == [0, 2, 3, 4]
            window = collector.window
            assert (window.resume_position, window.trained) == (1, [2, 3, 4])
        again = ScriptedGenerator(at_once=True)
        resumed = collecting(again, cfg, position=1, trained=window.trained, groups_left=8)
        async with resumed as collector:
            assert positions(await collector.take(2)) == [1, 5]
        assert again.keys[:4] == ["train/1", "train/5", "train/6", "train/7"]

    run(body())


def test_prompts_too_long_or_rehearsed_are_skipped_and_counted() -> None:
    async def body() -> None:
        generator = ScriptedGenerator(at_once=True)
        rehearsed = {"toy/1", "toy/4", "toy/5"}
        async with collecting(generator, settings(), long={0, 2, 5}, excluded=rehearsed) as collector:
            groups = await collector.take(2)
            assert positions(groups) == [3, 6]
            assert collector.stats() == {"skipped_prompts/too_long": 3.0, "skipped_prompts/rehearsed": 2.0}
            collector.release(groups)
            assert positions(await collector.take(2)) == [7, 8]

    run(body())


def test_the_next_prompts_are_drawn_before_the_slots_open_and_each_once() -> None:
    async def body() -> None:
        generator = ScriptedGenerator(at_once=True)
        async with collecting(generator, settings(), long={3}, groups_left=6) as collector:
            stream = collector.upcoming.source
            groups = await collector.take(2)
            while len(stream.drawn) < 4:
                await asyncio.sleep(0)
            assert generator.keys == ["train/0", "train/1"], "no prompt starts before its slot is open"
            assert (collector.window.position, collector.window.resume_position) == (2, 0)
            collector.release(groups)
            assert positions(await collector.take(2)) == [2, 4]
            await asyncio.sleep(0.05)
            assert sorted(stream.drawn) == list(range(7)), "2 steps, 1 skipped prompt, and 2 prompts ahead"

    run(body())


def test_a_prompt_that_cannot_be_drawn_is_an_error_only_when_it_is_due() -> None:
    async def body() -> None:
        async with collecting(ScriptedGenerator(at_once=True), settings()) as collector:
            collector.upcoming.source.long = None  # the prompts of the first step are drawn already
            groups = await collector.take(2)
            await asyncio.sleep(0.05)
            with pytest.raises(TypeError):
                collector.release(groups)

    run(body())


@pytest.mark.parametrize(
    "unusable",
    [{"long": range(10**9)}, {"excluded": {f"toy/{p}" for p in range(20_000)}}],
    ids=["too long", "rehearsed"],
)
def test_prompts_that_can_never_be_used_are_an_error_and_not_a_hang(unusable: dict[str, Any]) -> None:
    async def body() -> None:
        generator = ScriptedGenerator(at_once=True)
        async with collecting(generator, settings(), **unusable) as collector:
            with pytest.raises(ValueError, match=r"^task: 10000 successive prompts could not be used .* got \{"):
                await collector.take(2)
            assert generator.submissions == []

    run(body())


def test_groups_before_the_last_usable_prompt_are_still_returned() -> None:
    async def body() -> None:
        generator = ScriptedGenerator(at_once=True)
        async with collecting(generator, settings(lag=1), long=range(4, 10**9)) as collector:
            groups = await collector.take(2)
            collector.release(groups)
            assert positions(await collector.take(2)) == [2, 3]
            with pytest.raises(ValueError, match="successive prompts"):
                await collector.take(2)

    run(body())


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_groups_are_lag_steps_old_once_the_window_is_full_and_never_older(lag: int) -> None:
    steps, per_step = 7, 3

    async def body() -> None:
        generator = ScriptedGenerator(at_once=True)
        seen: list[int] = []
        cfg = settings(lag, per_step)
        async with collecting(generator, cfg, groups_left=steps * per_step) as collector:
            for step in range(steps):
                groups = await collector.take(per_step)
                seen += positions(groups)
                ages = {step - t.first_version for group in groups for t in group.trajectories}
                assert ages == {min(step, lag)}
                await asyncio.sleep(0.01)  # the learner works, new weights are published
                generator.version = step + 1
                collector.release(groups)
        assert seen == list(range(steps * per_step))
        sizes = [len(jobs) for jobs in generator.submissions]
        assert sizes == [(lag + 1) * per_step, *[per_step] * (steps - lag - 1)], "one submission for each release"

    run(body())


def test_no_prompt_is_admitted_before_a_slot_is_released() -> None:
    async def body() -> None:
        generator = ScriptedGenerator(at_once=True)
        async with collecting(generator, settings(lag=1, per_step=2)) as collector:
            groups = await collector.take(2)
            await asyncio.sleep(0.05)
            assert len(generator.keys) == 4
            collector.release(groups)
            assert positions(await collector.take(2)) == [2, 3]
            await asyncio.sleep(0.05)
            assert len(generator.keys) == 6

    run(body())


@pytest.mark.parametrize(("groups_left", "submitted"), [(3, [3]), (4, [4]), (5, [4, 1])])
def test_no_more_groups_are_admitted_than_the_run_has_left(groups_left: int, submitted: list[int]) -> None:
    async def body() -> None:
        generator = ScriptedGenerator(at_once=True)
        async with collecting(generator, settings(lag=1), groups_left=groups_left) as collector:
            taken = 0
            while taken < groups_left:
                groups = await collector.take(min(2, groups_left - taken))
                taken += len(groups)
                collector.release(groups)
        assert [len(jobs) for jobs in generator.submissions] == submitted

    run(body())


def test_an_error_in_the_background_is_raised_by_a_waiting_take_and_every_later_one() -> None:
    async def body() -> None:
        generator = ScriptedGenerator()
        async with collecting(generator, settings()) as collector:
            waiting = asyncio.create_task(collector.take(2))
            await asyncio.sleep(0.02)
            generator.error = RuntimeError("the engine broke")
            for take in (waiting, collector.take(2)):
                with pytest.raises(RuntimeError, match="the engine broke"):
                    await asyncio.wait_for(take, 10)

    run(body())


def test_the_error_of_a_grader_is_raised_by_take() -> None:
    def judge(task: Any) -> Any:
        raise RuntimeError("the grader broke")

    async def body() -> None:
        async with collecting(ScriptedGenerator(at_once=True), settings(), grader=ScriptedGrader(judge)) as collector:
            with pytest.raises(RuntimeError, match="the grader broke"):
                await asyncio.wait_for(collector.take(2), 10)

    run(body())


def test_stop_ends_a_waiting_take_but_complete_groups_are_still_returned() -> None:
    async def body() -> None:
        generator = ScriptedGenerator()
        async with collecting(generator, settings(lag=1)) as collector:
            waiting = asyncio.create_task(collector.take(2))
            while not generator.keys:
                await asyncio.sleep(0)
            collector.stop()
            with pytest.raises(Stopped):
                await asyncio.wait_for(waiting, 10)
            for key in generator.keys[:2]:
                generator.finish(key, 0, 1)
            while not collector.window.ready(2):
                await asyncio.sleep(0.001)
            assert positions(await collector.take(2)) == [0, 1]
            with pytest.raises(Stopped):
                await asyncio.wait_for(collector.take(2), 10)

    run(body())


def test_leaving_the_context_ends_every_task_while_groups_are_pending() -> None:
    async def body() -> None:
        before = asyncio.all_tasks()
        generator = ScriptedGenerator()
        async with collecting(generator, settings()) as collector:
            while not generator.keys:
                await asyncio.sleep(0)
            assert asyncio.all_tasks() > before
            assert collector.window.resume_position == 0
        assert asyncio.all_tasks() == before

    run(body())


@pytest.mark.parametrize("failed", [1, 2])
def test_a_step_of_which_no_answer_could_be_judged_is_not_trained_on(failed: int) -> None:
    def judge(task: GradeTask) -> Grade:
        if int(task.problem["place"]) < failed:
            return Grade(reward=None, status="grader_error", reason="the judge is away")
        return Grade(reward=0.0, status="wrong")

    async def body() -> None:
        async with collecting(ScriptedGenerator(at_once=True), settings(), grader=ScriptedGrader(judge)) as collector:
            if failed < 2:
                assert positions(await collector.take(2)) == [0, 1]
                return
            with pytest.raises(NothingGraded, match="all 4 answers of the step, the first: the judge is away"):
                await collector.take(2)
            assert collector.window.resume_position == 0

    run(body())


def test_a_group_with_experience_answers_its_prompt_again_with_one_answer_less_in_place_of_the_next_prompt() -> None:
    async def body() -> None:
        few = ["groups_per_step=2", "steps=500", "sampling.group_size=3", f"sampling.max_prompt_tokens={LIMIT}"]
        cfg = load(["method=exgrpo", *few])
        experience = Experience(cfg)
        old = replace(trajectory(0, 1, 1, route="experience"), prompt_id=prompt(40).id)
        experience.questions = {prompt(40).id: Question(40, 0.5, (old,))}
        generator = ScriptedGenerator(at_once=True)
        async with collecting(generator, cfg, position=7, experience=experience) as collector:
            groups = await collector.take(2)
            assert generator.keys == ["train/7", "train/8"], "its seeds are those of its own place"
        again, fresh = groups
        assert (again.prompt.id, again.prompt.position, again.experience) == (prompt(40).id, 7, (old,))
        assert (fresh.prompt.id, fresh.prompt.position, fresh.experience) == (prompt(8).id, 8, ())
        assert [len(g.trajectories) for g in groups] == [2, 3]

    run(body())
