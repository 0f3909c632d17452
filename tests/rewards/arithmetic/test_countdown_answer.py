"""The Countdown verifier: a table of answers, hostile answers, and a comparison with Python's arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.arithmetic.countdown import verify

PROBLEM = {"numbers": [3, 7, 12], "target": 22}

RIGHT = [
    ([3, 7, 12], 22, "3+7+12"),
    ([3, 7, 12], 22, "12+7+3"),
    ([3, 7, 12], 22, " 3 + 7\t+ 12 \n"),
    ([3, 7, 12], 22, "(3+7)+12"),
    ([3, 7, 12], 22, "((3)+(7+12))"),
    ([3, 7, 12], -2, "3+7-12"),
    ([3, 7, 12], 33, "3*7+12"),
    ([3, 7, 12], 33, "12+3*7"),
    ([3, 7, 12], 15, "(12-7)*3"),
    ([3, 7, 12], 8, "12-(7-3)"),
    ([3, 7, 12], 2, "12-7-3"),
    ([3, 7, 12], 252, "3*7*12"),
    ([3, 7, 12], 11, "12/3+7"),
    ([8, 3, 3, 8], 24, "8/(3-8/3)"),
    ([2, 6, 3], 9, "6/2*3"),
    ([2, 6, 3], 1, "6/2/3"),
    ([5, 5, 5], 15, "5+5+5"),
    ([1, 2], 1, "2-1"),
    ([0, 4], 4, "4+0"),
    ([10, 1], 11, "10+1"),
]

WRONG = [
    ("3+7+13", "uses another number"),
    ("3+7", "leaves one out"),
    ("22", "is the target"),
    ("3+7+12+0", "adds one"),
    ("3+7+12+3-3", "uses one again"),
    ("3*7+12", "has another value"),
    ("37+12", "joins two numbers"),
    ("3 7+12", "has no operator"),
    ("3+7+1 2", "splits a number"),
    ("3+7+12=22", "is an equation"),
    ("3+7+12.", "ends in a full stop"),
    ("3+7+12.0", "holds a decimal"),
    ("03+7+12", "leads with a zero"),
    ("+3+7+12", "leads with a plus"),
    ("-3+7+12+6", "leads with a minus"),
    ("12-(-7)+3", "negates a number"),
    ("3+7+12)", "closes too often"),
    ("(3+7+12", "closes too rarely"),
    ("()3+7+12", "has empty parentheses"),
    ("(3)(7)+12", "multiplies without a sign"),
    ("3+7++12", "repeats an operator"),
    ("3+7+", "stops early"),
    ("3**7+12", "raises to a power"),
    ("12//3+7", "divides whole"),
    ("3×7+12", "uses another sign"),
    ("３+7+12", "uses full-width digits"),
    ("٣+7+12", "uses Arabic digits"),
    ("3²+7+12", "uses a superscript"),
    ("3+7+12#", "has a comment"),
    ("12/(3+7-10)", "divides by zero with other numbers"),
    ("int('3')+7+12", "calls"),
    ("__import__('os').system('id')", "is code"),
    ("9**9**9**9", "is a tower"),
    ("3+7+12\x00", "holds a null byte"),
    ("\ud800", "is a lone surrogate"),
    ("3\u00a0+7+12", "has a no-break space"),
    ("I think 3+7+12", "talks"),
    ("nan", "is no number"),
]


@pytest.mark.parametrize(("numbers", "target", "answer"), RIGHT)
def test_an_expression_with_each_number_once_and_the_right_value_is_correct(
    numbers: list[int], target: int, answer: str
) -> None:
    assert verify(answer, {"numbers": numbers, "target": target}).status == "correct"


@pytest.mark.parametrize(("answer", "why"), WRONG, ids=[why for _, why in WRONG])
def test_any_other_answer_is_wrong_with_a_reason(answer: str, why: str) -> None:
    verdict = verify(answer, PROBLEM)
    assert (verdict.reward, verdict.status) == (0.0, "wrong")
    assert verdict.reason


@pytest.mark.parametrize(
    "answer",
    ["(" * 100_000, "1" * 100_000, "3+" * 50_000, "(" * 99 + "3" + ")" * 99, "-" * 200, "9" * 200, "\x00" * 100_000],
    ids=["open", "digits", "sum", "deep", "minus", "long number", "nulls"],
)
def test_a_huge_or_deep_answer_is_wrong(answer: str) -> None:
    assert verify(answer, PROBLEM).status == "wrong"


@pytest.mark.parametrize("answer", ["", " ", "\n\t "])
def test_an_empty_answer_is_no_answer(answer: str) -> None:
    verdict = verify(answer, PROBLEM)
    assert (verdict.reward, verdict.status) == (0.0, "no_answer")


def test_dividing_by_zero_is_wrong() -> None:
    assert verify("1/(2-2)", {"numbers": [1, 2, 2], "target": 1}).reason == "divides by zero"


@pytest.mark.parametrize("problem", [{}, {"numbers": [], "target": 1}, {"numbers": [1, "2"], "target": 3}])
def test_a_malformed_problem_is_a_grader_error(problem: dict) -> None:
    assert verify("1+2", problem).status == "grader_error"


@given(st.text(max_size=250))
def test_no_answer_raises(answer: str) -> None:
    assert verify(answer, PROBLEM).status in ("wrong", "no_answer")


@given(st.text(alphabet="3712+-*/() ", max_size=30))
def test_a_correct_expression_has_the_same_value_in_python(answer: str) -> None:
    target = 22
    if verify(answer, PROBLEM).status == "correct":
        assert eval(answer) == target


SOLUTIONS = [
    (([3, 7, 12], 22), "(+12+3+7)", ["3+7+12", "12+3+7", " 12 + ( (7)+3 ) ", "(3+7+12)"]),
    (([3, 7, 12], 8), "(+12+3-7)", ["12-(7-3)", "12-7+3", "3-7+12", "(3+12)-7"]),
    (([3, 7, 12], 33), "(+(*3*7)+12)", ["3*7+12", "12+7*3", "12+(3*7)"]),
    (([3, 7, 12], 15), "(*(+12-7)*3)", ["(12-7)*3", "3*(12-7)"]),
    (([2, 6, 3], 9), "(*3*6/2)", ["6/2*3", "6*3/2", "3*(6/2)", "3/(2/6)"]),
    (([2, 2, 4], 8), "(+(*2*2)+4)", ["2*2+4"]),
    (([2, 2, 4], 8), "(+2+2+4)", ["2+2+4", "4+2+2"]),
]
"""Problem, the semantic key of one solution, and ways to write it."""


@pytest.mark.parametrize(("problem", "key", "answers"), SOLUTIONS)
def test_right_answers_have_one_key_if_they_differ_in_order_grouping_spaces_and_parentheses(
    problem: tuple[list[int], int], key: str, answers: list[str]
) -> None:
    numbers, target = problem
    keys = {verify(answer, {"numbers": numbers, "target": target}).semantic_key for answer in answers}
    assert keys == {key}


def test_a_wrong_answer_has_no_key() -> None:
    assert [verify(answer, PROBLEM).semantic_key for answer, _ in WRONG] == [""] * len(WRONG)
