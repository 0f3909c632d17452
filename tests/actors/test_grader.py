"""The Grader role with real worker processes."""

import asyncio
import dataclasses
import pickle
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from actors.contracts import GradeTask
from actors.grader import PooledGrader
from rewards.judge import ANSWER_LIMIT
from rewards.registry import VERIFIERS
from rewards.workers import process
from trajectories.trajectory import Grade

PROBLEM = {"numbers": [3, 7, 12], "target": 22}
SLOW_VERIFIER = """
import time

def verify(answer, problem):
    time.sleep(3600 if answer == "slow" else 0)
    return len(answer)
"""


@pytest.fixture
def slow_verifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The import path of a user's verifier, which is slow on one answer."""
    (tmp_path / "user_verifier.py").write_text(SLOW_VERIFIER)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "user_verifier:verify"


def graded(work: Callable[[PooledGrader], Awaitable[Any]], workers: int = 1, timeout_s: float = 20.0) -> Any:
    async def main() -> Any:
        grader = PooledGrader(workers, timeout_s, first_call_timeout_s=timeout_s)
        try:
            return await asyncio.wait_for(work(grader), 60)
        finally:
            await grader.close()

    return asyncio.run(main())


def countdown(key: str, answer: str) -> GradeTask:
    return GradeTask(key=key, verifier="countdown", problem=PROBLEM, answer=answer)


def test_every_task_of_many_concurrent_calls_gets_exactly_one_grade_under_its_key() -> None:
    async def work(grader: PooledGrader) -> tuple[list[dict[str, Any]], dict[str, float]]:
        calls = [
            grader.grade(
                [countdown(f"{call}#{i}", "3+7+12" + " " * call if (call + i) % 2 else f"{call}-7") for i in range(8)]
            )
            for call in range(50)
        ]
        return await asyncio.gather(*calls), await grader.stats()

    results, stats = graded(work, workers=2)
    for call, grades in enumerate(results):
        assert list(grades) == [f"{call}#{i}" for i in range(8)]
        assert [grades[f"{call}#{i}"].reward for i in range(8)] == [float((call + i) % 2) for i in range(8)]
    assert (stats["graded"], stats["correct"], stats["wrong"]) == (400, 200, 200)
    assert stats["cache_hits"] == 300  # of the 8 answers of a call, 4 and 4 are equal
    assert 0 < stats["seconds/p50"] <= stats["seconds/p99"] <= stats["seconds/max"]
    assert stats["isolation/countdown"] > 0


@pytest.mark.slow
def test_right_wrong_missing_and_slow_answers_and_a_broken_gold_get_different_statuses(slow_verifier: str) -> None:
    async def work(grader: PooledGrader) -> tuple[dict[str, Any], dict[str, float]]:
        tasks = [
            countdown("right", "3+7+12"),
            countdown("wrong", "3*7+12"),
            countdown("none", ""),
            GradeTask(key="math", verifier="math", problem={"answer": "#### 1/2"}, answer=r"it is \boxed{0.5}"),
            GradeTask(key="broken gold", verifier="math", problem={"answer": ""}, answer=r"\boxed{}"),
            GradeTask(key="slow", verifier=slow_verifier, problem={}, answer="slow"),
        ]
        return await grader.grade(tasks), await grader.stats()

    grades, stats = graded(work, timeout_s=2.0)
    assert {key: (grade.reward, grade.status) for key, grade in grades.items()} == {
        "right": (1.0, "correct"),
        "wrong": (0.0, "wrong"),
        "none": (0.0, "no_answer"),
        "math": (1.0, "correct"),
        "broken gold": (None, "grader_error"),
        "slow": (0.0, "timeout"),
    }
    assert grades["slow"].reason == "no verdict within 2 s"
    assert stats["respawns"] == 1
    assert stats["timeout"] == 1


def test_only_the_last_characters_of_an_answer_reach_the_verifier(slow_verifier: str) -> None:
    async def work(grader: PooledGrader) -> Any:
        end = "x" * (ANSWER_LIMIT + 1)
        return await grader.grade(
            [GradeTask(key="a", verifier=slow_verifier, problem={}, answer=end), countdown("b", end)]
        )

    grades = graded(work)
    assert grades["a"].reward == ANSWER_LIMIT
    assert grades["b"].status == "wrong"


def test_hostile_answers_get_reward_0_and_end_no_worker() -> None:
    async def work(grader: PooledGrader) -> tuple[dict[str, Any], dict[str, float]]:
        hostile = ["9" * 100_000, "9^{9^{9^{9}}}", r"\boxed{(10^{9})!}", "\x00\ud800", "(" * 99_999, "9**9**9**9"]
        tasks = [
            GradeTask(key=f"{verifier}{index}", verifier=verifier, problem={"answer": "42"} | PROBLEM, answer=answer)
            for index, answer in enumerate(hostile)
            for verifier in ("countdown", "math")
        ]
        return await grader.grade(tasks), await grader.stats()

    grades, stats = graded(work)
    assert {grade.reward for grade in grades.values()} == {0.0}
    assert stats["respawns"] == 0


def test_a_grader_whose_canary_gets_a_wrong_verdict_raises_instead_of_grading(monkeypatch: pytest.MonkeyPatch) -> None:
    [canary] = VERIFIERS["countdown"].canaries
    swapped = dataclasses.replace(canary, right="3*7+12", wrong="3+7+12")
    row = dataclasses.replace(VERIFIERS["countdown"], canaries=(swapped,))
    monkeypatch.setitem(VERIFIERS, "countdown", row)
    with pytest.raises(RuntimeError, match=r"the grader is broken: verifier 'countdown' finds '3\*7\+12' wrong"):
        graded(lambda grader: grader.grade([countdown("a", "3+7+12")]))


def test_a_grader_without_workers_raises_instead_of_grading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no processes left")

    monkeypatch.setattr(process, "spawn", refuse)
    with pytest.raises(RuntimeError, match="no processes left"):
        graded(lambda grader: grader.grade([countdown("a", "3+7+12")]))


def test_tasks_and_grades_are_the_same_after_a_message_between_processes() -> None:
    task = GradeTask(key="a", verifier="countdown", problem=PROBLEM, answer="1", context={"step": 3})
    grade = Grade(
        reward=None, status="no", reason="r", seconds=0.5, parts={"answer": None, "form": 1.0}, semantic_key="k"
    )
    tasks, grades = pickle.loads(pickle.dumps(([task, task], [grade])))
    assert (tasks, grades) == ([task, task], [grade])
    assert tasks[0].problem is tasks[1].problem, "answers to one problem share it"


def test_a_grade_has_the_semantic_key_of_its_verdict() -> None:
    grades = graded(lambda grader: grader.grade([countdown("a", "3+7+12"), countdown("b", "12 + (3+7)")]))
    assert {grade.semantic_key for grade in grades.values()} == {"(+12+3+7)"}


def test_two_tasks_under_one_key_are_refused() -> None:
    with pytest.raises(AssertionError, match="share a key"):
        graded(lambda grader: grader.grade([countdown("a", "1"), countdown("a", "2")]))
