"""The verifier of few-shot sums: a table of answers, malformed problems, and random text."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.arithmetic.first_number import LENGTH_LIMIT, verify

PROBLEM = {"number": 123}


@pytest.mark.parametrize(
    "answer",
    ["123", " 123", "\n123\n12 + 4 = 16", " 123.", " 123, as 66 + 57", "is 123", " 123 or 124", "(123)", "123=123"],
)
def test_an_answer_whose_first_number_is_the_sum_is_correct_whatever_follows(answer: str) -> None:
    assert verify(answer, PROBLEM).status == "correct"


@pytest.mark.parametrize(
    "answer",
    [
        " 12\n123",
        "66 + 57 = 123",
        "1234",
        "1 23",
        "0123",
        "-123",
        "−123",
        "+123",
        "123.5",
        "123.0",
        "123,0",
        "12,3",
        "1.23",
        "１２３",
        "١٢٣ 123",
        "0x7B 123",
        "9" * LENGTH_LIMIT,
    ],
)
def test_any_other_first_number_is_wrong_with_a_reason_that_does_not_contain_the_sum(answer: str) -> None:
    verdict = verify(answer, PROBLEM)
    assert (verdict.reward, verdict.status) == (0.0, "wrong")
    assert verdict.reason and "123" not in verdict.reason


@pytest.mark.parametrize("answer", ["", "\n", "one hundred and twenty-three", "²", "\ud800\x00"])
def test_an_answer_without_a_number_is_no_answer(answer: str) -> None:
    assert (verify(answer, PROBLEM).reward, verify(answer, PROBLEM).status) == (0.0, "no_answer")


@pytest.mark.parametrize("number", [None, "123", 123.0, True, [123]])
def test_a_malformed_problem_is_a_grader_error(number: object) -> None:
    assert verify("123", {"number": number}).status == "grader_error"


def test_a_negative_number_can_be_asked_for() -> None:
    assert verify(" -5", {"number": -5}).status == "correct"
    assert verify(" 5", {"number": -5}).status == "wrong"


@given(st.text())
def test_no_answer_raises(answer: str) -> None:
    assert verify(answer, PROBLEM).reward in (0.0, 1.0)


def test_long_answers_are_judged_at_once() -> None:
    start = time.monotonic()
    for answer in ("1," * 10**6, "-" * 10**6, "1" * 10**6, "a" * LENGTH_LIMIT, "1." * (LENGTH_LIMIT // 2)):
        assert verify(answer, PROBLEM).reward == 0.0
    assert time.monotonic() - start < 1
