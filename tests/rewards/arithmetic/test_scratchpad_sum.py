"""The verifier of sums after a scratchpad: a table of answers, hostile answers, and random short results."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.arithmetic.scratchpad_sum import DIGIT_LIMIT, LENGTH_LIMIT, verify

PROBLEM = {"operands": [95, 7]}
STEPS = (
    "\n<scratch>\n[9,5] + [7] , A=[] , C=0 , 5+7+0=12 , A->2 , C->1\n"
    "[9] + [] , A=[2] , C=1 , 9+0+1=10 , A->0 , C->1\n[] + [] , A=[0,2] C=1 , END\n"
)

RIGHT = [
    ([95, 7], f"{STEPS}</scratch>\n1 0 2\n"),
    ([95, 7], f"{STEPS}</scratch>\n1 0 2"),
    ([95, 7], "</scratch>102"),
    ([95, 7], "</scratch>\r\n\t1 02 \n\n"),
    ([95, 7], "\n<scratch>\nall of this is wrong: 3\n</scratch>\n1 0 2\n"),
    ([0, 0], "</scratch>\n0\n"),
    ((7, 95), "</scratch>\n1 0 2\n"),
    ([10**29, 1], "</scratch>\n1" + " 0" * 28 + " 1\n"),
]

WRONG = [
    ("</scratch>\n1 0 3\n", "is another number"),
    ("</scratch>\n0 2\n", "forgets the carry"),
    ("</scratch>\n2 0 1\n", "is in reverse"),
    ("</scratch>\n0 1 0 2\n", "leads with a zero"),
    ("</scratch>\n1 0 2 0\n", "goes on"),
    ("</scratch>\n1 0\n2\n", "breaks the line"),
    ("</scratch>\n1  0 2\n", "leaves two spaces"),
    ("</scratch>\n1\t0 2\n", "is parted by tabs"),
    ("</scratch>\n1,0,2\n", "is parted by commas"),
    ("</scratch>\n1 0 2.\n", "ends in a full stop"),
    ("</scratch>\n1 0 2.0\n", "holds a decimal"),
    ("</scratch>\n+1 0 2\n", "has a sign"),
    ("</scratch>\n1_0_2\n", "has underscores"),
    ("</scratch>\n1 0 2\n1 0 3\n", "is two guesses"),
    ("</scratch>\n1 0 1 or 1 0 2\n", "hedges"),
    ("</scratch>\n1 0 3\n</scratch>\n1 0 2\n", "is a second try"),
    ("</scratch>\n1 0 2\n</scratch>\n", "is followed by a second end"),
    ("</scratch>\n1 0 2\nInput:\n95+7\nTarget:", "is followed by a prompt"),
    ("</scratch>\n95+7\n", "is the problem"),
    ("</scratch>\n１０２\n", "has full-width digits"),
    ("</scratch>\n١٠٢\n", "has Arabic digits"),
    ("</scratch>\n1 0 ²\n", "has a superscript"),
    ("</scratch>\n1\u00a00 2\n", "has a no-break space"),
    ("</scratch>\n1 0 2\x00\n", "holds a null byte"),
    ("</scratch>\n0x66\n", "is hexadecimal"),
    ("</scratch>\n1.02e2\n", "is scientific"),
    ("</scratch>\nsum([95,7])\n", "is code"),
    ("</scratch>\nnan\n", "is no number"),
    ("</scratch>\n\ud800\n", "is a lone surrogate"),
]

NO_ANSWER = ["", "\n", "102", "1 0 2", STEPS, f"{STEPS}</scratch", f"{STEPS}</scratch>\n \n", "< /scratch>\n1 0 2\n"]


@pytest.mark.parametrize(("operands", "answer"), RIGHT)
def test_the_digits_of_the_sum_after_the_scratchpad_are_correct_whatever_the_steps(operands: list, answer: str) -> None:
    assert verify(answer, {"operands": operands}).status == "correct"


@pytest.mark.parametrize(("answer", "why"), WRONG, ids=[why for _, why in WRONG])
def test_any_other_result_is_wrong_with_a_reason_that_does_not_contain_the_sum(answer: str, why: str) -> None:
    verdict = verify(answer, PROBLEM)
    assert (verdict.reward, verdict.status) == (0.0, "wrong")
    assert verdict.reason
    assert "102" not in verdict.reason


@pytest.mark.parametrize("answer", NO_ANSWER)
def test_a_scratchpad_without_end_or_result_is_no_answer(answer: str) -> None:
    verdict = verify(answer, PROBLEM)
    assert (verdict.reward, verdict.status) == (0.0, "no_answer")


@pytest.mark.parametrize(
    "answer",
    [
        "</scratch>\n" + "1" * 10**6,
        "</scratch>\n" + "1 " * (LENGTH_LIMIT // 2 - 10),
        "</scratch>\n" + "1 " * (LENGTH_LIMIT // 2 - 10) + "x",
        "</scratch>" + " \n" * (LENGTH_LIMIT // 2 - 10) + "x",
        "</scratch>" * (LENGTH_LIMIT // 10),
        "\x00" * 10**6,
        " " * LENGTH_LIMIT + "</scratch>\n1 0 2\n",
    ],
    ids=["long number", "many digits", "many digits and a letter", "blanks", "many ends", "nulls", "behind blanks"],
)
def test_a_huge_answer_is_wrong_and_judged_quickly(answer: str) -> None:
    started = time.monotonic()
    assert verify(answer, PROBLEM).status == "wrong"
    assert time.monotonic() - started < 0.1


@pytest.mark.parametrize(
    "operands", [None, [], [95], [95, 7, 1], [95, "7"], [95, 7.0], [True, 7], [-1, 7], "95", [10**DIGIT_LIMIT, 1]]
)
def test_a_malformed_problem_is_a_grader_error(operands: object) -> None:
    assert verify("</scratch>\n1 0 2\n", {"operands": operands}).status == "grader_error"
    assert verify("</scratch>\n1 0 2\n", {}).status == "grader_error"


def test_the_largest_problem_has_a_correct_answer() -> None:
    operands = [10**DIGIT_LIMIT - 1, 1]
    assert verify("</scratch>\n1" + "0" * DIGIT_LIMIT, {"operands": operands}).status == "correct"


@given(st.text(max_size=250))
def test_no_answer_raises(result: str) -> None:
    # A text with the end of the scratchpad in it may be a right answer.
    assert verify(result, PROBLEM).reward == 0.0 or "</scratch>" in result
    assert verify(f"</scratch>\n{result}", PROBLEM).status in ("wrong", "no_answer", "correct")


@given(st.text(alphabet="012 \n", max_size=8))
def test_a_correct_result_is_the_sum_and_nothing_else(result: str) -> None:
    if verify(f"</scratch>{result}", PROBLEM).status == "correct":
        assert result.strip().replace(" ", "") == "102"
