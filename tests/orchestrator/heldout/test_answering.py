"""Held-out prompts with any number of answers: bounded in flight, divided among generators, with the same seeds."""

import asyncio
from collections.abc import Sequence

import pytest

from actors.contracts import GenerationJob
from configs.heldout import Decoding
from configs.load import load
from configs.rewards import RewardConfig
from orchestrator.heldout.answering import PART, Question, answered
from orchestrator.rollout.jobs import answer_seeds
from orchestrator.rollout.rollouts import Rollouts
from tests.orchestrator.fake_roles import ScriptedGenerator, ScriptedGrader, prompt, run
from trajectories.trajectory import Grade, Group

DECODING = Decoding(temperature=1.0, max_new_tokens=4)


def question(position: int, answers: int, foreign: bool = False) -> Question:
    own = prompt(position)
    return Question(prompt=own, tokens=[1, 2], answers=answers, decoding=DECODING, foreign=foreign, place=position)


async def collected(rollouts: Rollouts, questions: Sequence[Question], **options: int) -> dict[int, Group]:
    return {one.place: group async for one, group in answered(rollouts, questions, 7, **options)}


def test_a_thousand_answers_are_shared_by_generators_and_come_back_in_order_with_the_seeds_of_one_job() -> None:
    async def body() -> None:
        generators = [ScriptedGenerator(at_once=True) for _ in range(2)]
        async with Rollouts(generators, [ScriptedGrader()], 20.0) as rollouts:
            found = await collected(rollouts, [question(0, 1024)])
        sizes = [len(job.seeds) for generator in generators for jobs in generator.submissions for job in jobs]
        assert sizes == [PART] * 8 and all(len(generator.keys) == 4 for generator in generators)
        [group] = found.values()
        assert [t.sample_index for t in group.trajectories] == list(range(1024))
        assert [t.seed for t in group.trajectories] == list(answer_seeds(7, "heldout/0", range(1024)))

    run(body())


def test_no_more_answers_than_allowed_are_in_flight_and_each_question_is_yielded_as_soon_as_it_is_done() -> None:
    class Watched(ScriptedGenerator):
        most = running = 0

        async def submit(self, jobs: Sequence[GenerationJob]) -> None:
            await super().submit(jobs)
            self.running += sum(len(job.seeds) for job in jobs)
            self.most = max(self.most, self.running)

    async def body() -> None:
        generator = Watched()
        async with Rollouts([generator], [ScriptedGrader()], 20.0) as rollouts:
            yielded: list[int] = []

            async def consume() -> None:
                async for one, _ in answered(rollouts, [question(i, 4) for i in range(10)], 7, in_flight=8):
                    yielded.append(one.place)

            task = asyncio.create_task(consume())
            for number in range(10):
                while len(generator.keys) <= number:
                    await asyncio.sleep(0.001)
                generator.running -= 4
                generator.finish(generator.keys[number], 0, 1, 2, 3)
                while len(yielded) <= number:
                    await asyncio.sleep(0.001)
            await task
        assert yielded == list(range(10))
        assert generator.most == 8
        assert max(map(len, generator.submissions)) == 2

    run(body())


def test_answers_to_prompts_of_another_task_have_the_reward_of_its_verifier_alone() -> None:
    rewards = {"answer": RewardConfig(weight=1.0), "short": RewardConfig(verifier="short", weight=0.5)}

    async def body() -> None:
        grader = ScriptedGrader(lambda task: Grade(reward=1.0, status="correct"))
        async with Rollouts([ScriptedGenerator(at_once=True)], [grader], 20.0, rewards) as rollouts:
            found = await collected(rollouts, [question(0, 2), question(1, 2, foreign=True)])
        assert [[t.reward for t in found[place].trajectories] for place in (0, 1)] == [[1.5, 1.5], [1.0, 1.0]]
        assert sum(task.verifier == "short" for call in grader.calls for task in call) == 2

    run(body())


def test_a_failing_generator_ends_the_answers_with_its_error() -> None:
    async def body() -> None:
        generator = ScriptedGenerator(at_once=True)
        generator.error = RuntimeError("the engine died")
        async with Rollouts([generator], [ScriptedGrader()], 20.0) as rollouts:
            with pytest.raises(RuntimeError, match="the engine died"):
                await collected(rollouts, [question(0, 2)])

    run(body())


def test_the_settings_of_another_task_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"^evaluate\.tasks\.a\.ks: each k must be between 1 and answers \(4\)"):
        load(["evaluate.tasks.a={answers: 4, ks: [1, 8]}"])
    with pytest.raises(ValueError, match=r"^evaluate\.tasks: must not have the name 'run'"):
        load(["evaluate.tasks.run.answers=4"])
    with pytest.raises(ValueError, match=r"^monitor\.also: must have names that begin with a letter .*, got 'change'"):
        load(["monitor.also.change.answers=4"])
