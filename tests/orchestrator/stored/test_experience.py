"""Experience: which right answers of earlier steps are stored, which join a group, and a run that is resumed."""

import asyncio
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.load import load
from orchestrator.stored.experience import Experience, Question
from orchestrator.watch.step_metrics import group_metrics
from tests.orchestrator.test_critic_run import numbers, train
from tests.trajectories.given_lengths import trajectory
from trajectories.batch import Batch
from trajectories.trajectory import Grade, Group, Prompt, Trajectory


def stored(*settings: str) -> Experience:
    return Experience(load(["method=exgrpo", "groups_per_step=4", "sampling.group_size=4", *settings]))


def group(name: str, rewards: list[float | None], position: int = 0, experience: tuple[Trajectory, ...] = ()) -> Group:
    """Return a group whose answers have different tokens, also from those of groups at other positions."""
    prompt = Prompt(id=name, position=position, text="", verifier="", problem={})
    answers = [
        replace(trajectory(10 * position + i, 2, 1 + i, reward), prompt_id=name) for i, reward in enumerate(rewards)
    ]
    return Group(prompt=prompt, trajectories=tuple(answers), experience=experience)


def test_right_answers_are_stored_from_the_first_step_with_enough_of_them() -> None:
    experience = stored("objective.experience.start=0.35")
    experience.observe([group("a", [1, 0, 0, 0]), group("b", [0, 0, 0, None])])
    assert not experience.questions, "an eighth of the answers is right"
    experience.observe([group("a", [1, 1, 0, 0], 3), group("b", [0, 0, 0, 0]), group("c", [1, 1, 1, 1])])
    assert {name: (q.position, q.pass_rate, len(q.answers)) for name, q in experience.questions.items()} == {
        "a": (3, 0.5, 2)
    }, "neither what was never answered rightly nor what is always"
    assert {t.route for t in experience.questions["a"].answers} == {"experience"}
    experience.observe([group("b", [1, None, 0, 0], 7)])
    assert experience.questions["b"].pass_rate == pytest.approx(1 / 3), "it is stored for good, of graded answers"


def test_a_question_has_its_latest_pass_rate_and_its_newest_different_answers_and_leaves_once_it_is_mastered() -> None:
    experience = stored("objective.experience.start=0", "objective.experience.answers=3")
    experience.observe([group("a", [1, 1, 0, 0], 3)])
    old = experience.questions["a"].answers
    again = group("a", [1, 1, 0], 3, old)
    experience.observe([replace(again, trajectories=tuple(replace(t, first_version=9) for t in again.trajectories))])
    assert [t.first_version for t in experience.questions["a"].answers] == [9, 9], "the same answers, sampled again"
    experience.observe([group("a", [1, 0, 1], 90, old)])
    question = experience.questions["a"]
    assert (question.position, question.pass_rate) == (3, pytest.approx(2 / 3)), (
        "the prompt is still that of position 3"
    )
    assert [t.sample_index for t in question.answers] == [31, 900, 902]
    experience.observe([group("a", [0, 0, 0], 91, old)])
    assert experience.questions["a"].pass_rate == 0
    experience.observe([group("a", [1, 1, 1], 92, old)])
    assert not experience.questions
    experience.observe([group("a", [1, 1, 0], 93, old)])
    assert not experience.questions, "the position of the prompt is known no longer"


def test_a_group_that_is_dropped_for_its_equal_rewards_ends_its_question_or_changes_its_pass_rate() -> None:
    experience = stored("objective.experience.start=0")
    experience.observe([group("a", [1, 0, 0, 0], 3), group("b", [1, 0, 0, 0], 4)])
    old = {name: question.answers for name, question in experience.questions.items()}
    experience.observe_dropped(group("a", [1, 1, 1], 90, old["a"]))
    experience.observe_dropped(group("b", [0, 0, None], 91, old["b"]))
    experience.observe_dropped(group("c", [1, 1, 1, 1], 5))
    assert {name: question.pass_rate for name, question in experience.questions.items()} == {"b": 0.0}
    assert experience.questions["b"].answers == old["b"] and experience.questions["b"].position == 4


def test_the_number_of_questions_is_bounded_and_the_one_answered_longest_ago_is_dropped() -> None:
    experience = stored("objective.experience.start=0", "objective.experience.questions=2")
    for name in ("a", "b", "a", "c"):
        experience.observe([group(name, [1, 0])])
    assert list(experience.questions) == ["a", "c"]


def test_the_first_groups_of_each_step_have_experience_and_pass_rates_near_a_half_are_drawn_most() -> None:
    experience = stored("sampling.group_size=8")
    rates = {"a": 1 / 8, "b": 4 / 8, "c": 4 / 8, "d": 6 / 8}
    experience.questions = {name: Question(i, rate, ()) for i, (name, rate) in enumerate(rates.items())}
    chosen = [experience.choose(place, place, ()) for place in range(40_000)]
    assert all((question is None) == (place % 4 >= 2) for place, question in enumerate(chosen))
    counts = Counter(question.position for question in chosen if question is not None)
    density = {0: np.exp(-4.5), 1: 0.5, 2: 0.5, 3: np.exp(-2)}  # the two of one pass rate share its weight
    total = sum(density.values())
    assert {i: counts[i] / 20_000 for i in density} == pytest.approx(
        {i: d / total for i, d in density.items()}, abs=0.01
    )
    assert experience.choose(0, 5, ()) == experience.choose(0, 5, ()) == experience.choose(4, 5, ())
    assert {experience.choose(0, p, {"b", "c", "d"}) for p in range(9)} == {experience.questions["a"]}
    assert experience.choose(0, 5, rates) is None


def test_of_several_right_answers_the_one_of_lowest_entropy_joins() -> None:
    old = tuple(trajectory(i, 2, 1 + i, route="experience") for i in range(3))
    groups = [group("a", [1, 0], experience=old), group("b", [1, 0]), group("c", [1, 0], experience=old[:1])]

    async def score(batch: Batch) -> Batch:
        assert batch.mask.sum() == 1 + 2 + 3
        by_answer = torch.tensor([0.3, 0.1, 0.2])
        return replace(batch, entropy_old=torch.where(batch.mask, by_answer[batch.seq], 99.0))

    joined = asyncio.run(stored().join(groups, score))
    assert [g.experience for g in joined] == [(old[1],), (), (old[0],)]
    assert [g.trajectories for g in joined] == [g.trajectories for g in groups]
    assert group_metrics(joined) == group_metrics([replace(g, experience=()) for g in groups]) | {
        "zero_signal_groups": 0.0
    }


def test_what_is_saved_is_read_back_with_the_same_choices(tmp_path: Path) -> None:
    experience, again = stored("objective.experience.start=0"), stored("objective.experience.start=0")
    experience.save(tmp_path)
    again.load(tmp_path)
    assert (again.questions, again.started) == ({}, False)
    experience.observe([group(name, [1, 1, 0, 0], 3 + i) for i, name in enumerate("abc")])
    hostile = replace(trajectory(5, 1, 2, route="experience"), text="\ud800 'x'\n")
    graded = replace(hostile, grade=Grade(reward=1.0, status="correct", parts={"answer": 1.0, "b": None}))
    experience.questions["d"] = Question(9, 0.25, (graded,))
    experience.save(tmp_path)
    again.load(tmp_path)
    assert again.started and list(again.questions) == list("abcd")
    for name, question in experience.questions.items():
        other = again.questions[name]
        assert (other.position, other.pass_rate) == (question.position, question.pass_rate)
        for mine, theirs in zip(question.answers, other.answers, strict=True):
            for name in ("prompt_id", "text", "grade", "seed", "route", "first_version", "finish_reason"):
                assert getattr(mine, name) == getattr(theirs, name)
            for array in ("tokens", "mask", "logp_sampler"):
                np.testing.assert_array_equal(getattr(mine, array), getattr(theirs, array), strict=True)
    chosen = [[e.choose(0, position, ()) for position in range(20)] for e in (experience, again)]
    assert [q.position for q in chosen[0] if q] == [q.position for q in chosen[1] if q]


@pytest.mark.slow
def test_a_resumed_run_with_experience_has_the_metrics_of_one_that_was_not_stopped(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", str(tests))
    monkeypatch.syspath_prepend(str(tests))
    chosen = (
        "method=exgrpo",
        "name=x",
        "task.verifier=toy_verifiers:even",
        "groups_per_step=4",
        "learner.learning_rate=1e-3",
        "logbook.trajectories_every=1",
        "logbook.trajectories=99",
    )
    whole = train(tiny_policy, tmp_path / "whole", *chosen, "steps=6")
    train(tiny_policy, tmp_path / "parts", *chosen, "steps=2")
    resumed = train(tiny_policy, tmp_path / "parts", *chosen, "steps=6", resume=True)
    assert numbers(resumed) == numbers(whole)
    assert [r["experience_groups"] for r in whole] == [0, *[2] * 5]
    assert all(0 < r["experience_weight"] < 1 for r in whole[1:])
    assert all(r["staleness_max"] == 0 for r in whole), "old answers are not stale: they have a weight"
    rows = [json.loads(line) for line in (tmp_path / "whole" / "x" / "trajectories.jsonl").read_text().splitlines()]
    answers = Counter((row["step"], row["prompt_id"]) for row in rows if row["route"] == "explore")
    assert Counter(answers.values()) == {3: 4 * 6 - 2 * 5, 2: 2 * 5}, "one new answer less where there is an old one"
