"""Graders watched by a run: numbers merged, alarms raised once, verifiers proven at the start."""

import asyncio
from collections.abc import Sequence
from typing import Any

from orchestrator.rollout.grading import GraderWatch, merged, prove
from tasks.countdown import Countdown, CountdownOptions


def watch() -> tuple[GraderWatch, list[str]]:
    said: list[str] = []
    return GraderWatch([], lambda title, text: said.append(title)), said


def numbers(graded: float, grader_error: float = 0.0, timeout: float = 0.0) -> dict[str, float]:
    return {"graded": graded, "grader_error": grader_error, "timeout": timeout}


def test_numbers_of_several_graders_add_up_the_slowest_and_the_lowest_level_count() -> None:
    one = {"graded": 5.0, "seconds/p99": 0.1, "isolation/code": 3.0}
    other = {"graded": 2.0, "seconds/p99": 0.4, "isolation/code": 2.0, "isolation/sql": 2.0}
    assert merged([one, other]) == {"graded": 7.0, "seconds/p99": 0.4, "isolation/code": 2.0, "isolation/sql": 2.0}


def test_answers_graded_before_the_start_are_in_no_metric_and_no_alert() -> None:
    class CountingGrader:
        now = numbers(100, grader_error=50) | {"seconds/p99": 0.1, "isolation/code": 2.0}

        async def stats(self) -> dict[str, float]:
            return self.now

    grader, said = CountingGrader(), list[str]()
    graders: Any = [grader]
    watched = GraderWatch(graders, lambda title, text: said.append(title))
    asyncio.run(watched.start())
    grader.now = numbers(110, grader_error=51) | {"seconds/p99": 0.2, "isolation/code": 2.0}
    expected = numbers(10, grader_error=1) | {"seconds/p99": 0.2, "isolation/code": 2.0}
    assert asyncio.run(watched.look()) == {f"grader/{name}": value for name, value in expected.items()}
    assert said == []


def test_a_few_grader_errors_are_no_alarm_and_more_than_half_a_percent_are_one() -> None:
    graders, said = watch()
    graders.judge(numbers(100, grader_error=5))
    assert said == []
    graders.judge(numbers(200, grader_error=6))
    graders.judge(numbers(300, grader_error=7))
    assert said == ["the grader fails"]


def test_an_alarm_is_raised_again_only_after_its_share_had_become_right() -> None:
    graders, said = watch()
    graders.judge(numbers(1_000, grader_error=50))
    for graded in range(2_000, 6_000, 500):
        graders.judge(numbers(graded, grader_error=50))
    assert said == ["the grader fails"]
    graders.judge(numbers(7_000, grader_error=100))
    assert said == ["the grader fails"] * 2


def test_a_steady_share_of_timeouts_alarms_once_and_a_jump_alarms_again() -> None:
    graders, said = watch()
    for step in range(1, 20):
        graders.judge(numbers(500 * step, timeout=50 * step))  # one in ten from the start
    assert said == ["answers time out"]
    graders.judge(numbers(10_500, timeout=950 + 400))
    assert said == ["answers time out"] * 2


class ScriptedGrader:
    def __init__(self, levels: dict[str, int]) -> None:
        self.levels, self.asked = levels, [""]

    async def prove(self, verifiers: Sequence[str]) -> dict[str, int]:
        self.asked = list(verifiers)
        return self.levels

    async def stats(self) -> dict[str, float]:
        return numbers(3.0)


def test_at_the_start_every_grader_is_proven_with_the_verifiers_of_the_task_and_levels_are_told() -> None:
    said: list[str] = []
    graders: Any = [ScriptedGrader({"countdown": 2}), ScriptedGrader({})]
    asyncio.run(prove(graders, Countdown(CountdownOptions(), seed=0), said.append))
    assert [grader.asked for grader in graders] == [["countdown"]] * 2
    assert said == ["grader 0: countdown at isolation level 2"]


def test_the_numbers_arrive_as_metrics_of_the_graders() -> None:
    graders: Any = [ScriptedGrader({}), ScriptedGrader({})]
    found = asyncio.run(GraderWatch(graders, lambda title, text: None).look())
    assert found == {"grader/graded": 6.0, "grader/grader_error": 0.0, "grader/timeout": 0.0}
