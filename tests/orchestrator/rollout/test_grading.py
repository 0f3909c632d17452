"""The graders of a run: statistics are merged, alerts are raised once, verifiers are tested at the start."""

import asyncio
from collections.abc import Sequence
from typing import Any

from actors.presence import RoleLost
from orchestrator.rollout.grading import GraderWatch, merge_stats, prove
from tasks.countdown import Countdown, CountdownOptions


def watch() -> tuple[GraderWatch, list[str]]:
    alerts: list[str] = []
    return GraderWatch([], lambda title, text: alerts.append(title)), alerts


def numbers(graded: float, grader_error: float = 0.0, timeout: float = 0.0) -> dict[str, float]:
    return {"graded": graded, "grader_error": grader_error, "timeout": timeout}


def test_counts_of_several_graders_add_up_and_the_highest_latency_and_lowest_level_are_kept() -> None:
    one = {"graded": 5.0, "seconds/p99": 0.1, "isolation/code": 3.0}
    other = {"graded": 2.0, "seconds/p99": 0.4, "isolation/code": 2.0, "isolation/sql": 2.0}
    assert merge_stats([one, other]) == {"graded": 7.0, "seconds/p99": 0.4, "isolation/code": 2.0, "isolation/sql": 2.0}


def test_answers_graded_before_the_start_are_in_no_metric_and_no_alert() -> None:
    class CountingGrader:
        now = numbers(100, grader_error=50) | {"seconds/p99": 0.1, "isolation/code": 2.0}

        async def stats(self) -> dict[str, float]:
            return self.now

    grader, alerts = CountingGrader(), list[str]()
    graders: Any = [grader]
    watched = GraderWatch(graders, lambda title, text: alerts.append(title))
    asyncio.run(watched.start())
    grader.now = numbers(110, grader_error=51) | {"seconds/p99": 0.2, "isolation/code": 2.0}
    expected = numbers(10, grader_error=1) | {"seconds/p99": 0.2, "isolation/code": 2.0}
    assert asyncio.run(watched.collect()) == {f"grader/{name}": value for name, value in expected.items()}
    assert alerts == []


def test_a_few_grader_errors_raise_no_alert_and_more_than_half_a_percent_raise_one() -> None:
    graders, alerts = watch()
    graders.check(numbers(100, grader_error=5))
    assert alerts == []
    graders.check(numbers(200, grader_error=6))
    graders.check(numbers(300, grader_error=7))
    assert alerts == ["the grader fails"]


def test_an_alert_says_the_true_share_of_the_answers() -> None:
    """A divisor of at least WINDOW would make it 0.80 % and 6.4 %."""
    texts: list[str] = []
    graders = GraderWatch([], lambda title, text: texts.append(text))
    graders.check(numbers(8, grader_error=8))
    graders.check(numbers(80, grader_error=8, timeout=64))
    assert [text.partition(" could")[0].partition(" took")[0] for text in texts] == [
        "100.00% of the latest 8 answers",
        "80.0% of the latest 80 answers",
    ]


def test_an_alert_is_raised_again_only_after_its_condition_was_false() -> None:
    graders, alerts = watch()
    graders.check(numbers(1_000, grader_error=50))
    for graded in range(2_000, 6_000, 500):
        graders.check(numbers(graded, grader_error=50))
    assert alerts == ["the grader fails"]
    graders.check(numbers(7_000, grader_error=100))
    assert alerts == ["the grader fails"] * 2


def test_a_steady_fraction_of_timeouts_raises_one_alert_and_an_increase_another() -> None:
    graders, alerts = watch()
    for step in range(1, 20):
        graders.check(numbers(500 * step, timeout=50 * step))  # one in ten from the start
    assert alerts == ["answers time out"]
    graders.check(numbers(10_500, timeout=950 + 400))
    assert alerts == ["answers time out"] * 2


class FakeGrader:
    def __init__(self, levels: dict[str, int]) -> None:
        self.levels, self.tested = levels, [""]

    async def prove(self, verifiers: Sequence[str]) -> dict[str, int]:
        self.tested = list(verifiers)
        return self.levels

    async def stats(self) -> dict[str, float]:
        return numbers(3.0)


def test_every_grader_is_tested_with_the_verifiers_of_the_task_and_levels_are_reported() -> None:
    lines: list[str] = []
    graders: Any = [FakeGrader({"countdown": 2}), FakeGrader({})]
    asyncio.run(prove(graders, Countdown(CountdownOptions(), seed=0), lines.append))
    assert [grader.tested for grader in graders] == [["countdown"]] * 2
    assert lines == ["grader 0: countdown at isolation level 2"]


def test_the_statistics_become_metrics_of_the_graders() -> None:
    graders: Any = [FakeGrader({}), FakeGrader({})]
    found = asyncio.run(GraderWatch(graders, lambda title, text: None).collect())
    assert found == {"grader/graded": 6.0, "grader/grader_error": 0.0, "grader/timeout": 0.0}


def test_a_grader_that_was_started_again_adds_to_the_counts_of_its_process_before() -> None:
    class LosingGrader:
        now: dict[str, float] | None = numbers(100, grader_error=2)

        async def stats(self) -> dict[str, float]:
            if self.now is None:
                raise RoleLost("grader 0: its process died")
            return self.now

    grader = LosingGrader()
    graders: Any = [grader, FakeGrader({})]
    watched = GraderWatch(graders, lambda title, text: None)
    asyncio.run(watched.start())
    found = []
    for now in (numbers(110, grader_error=3), None, numbers(4, grader_error=1), numbers(9, grader_error=1)):
        grader.now = now
        found.append(asyncio.run(watched.collect()))
    assert [(values["grader/graded"], values["grader/grader_error"]) for values in found] == [
        (10.0, 1.0),
        (10.0, 1.0),  # it is away
        (14.0, 2.0),
        (19.0, 2.0),
    ]
