"""Check the mathematics verifier on the labelled pairs and responses of `pairs.jsonl`."""

import json
from pathlib import Path
from typing import Any

import pytest

from rewards.mathematics.answer import check_problem, verify

CASES = [json.loads(line) for line in (Path(__file__).parent / "pairs.jsonl").read_text().splitlines()]
PAIRS = [case for case in CASES if case["kind"] != "response"]
RESPONSES = [case for case in CASES if case["kind"] == "response"]
KINDS = sorted({case["kind"] for case in PAIRS})
ZERO_REWARD = ("wrong", "no_answer", "rejected")


def boxed(answer: str) -> str:
    return rf"Thus $\boxed{{{answer}}}$."


def test_the_data_has_enough_equal_and_unequal_pairs() -> None:
    equal = sum(case["equal"] for case in PAIRS)
    assert len(PAIRS) >= 320
    assert 0.4 < equal / len(PAIRS) < 0.6
    assert len(RESPONSES) >= 60
    assert len({(str(case["gold"]), case["answer"]) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("kind", KINDS)
def test_the_verdict_on_a_pair_is_its_label(kind: str) -> None:
    failures = []
    for case in (case for case in PAIRS if case["kind"] == kind):
        verdict = verify(boxed(case["answer"]), {"answer": case["gold"]})
        right = (
            verdict.status == "correct" if case["equal"] else verdict.reward == 0.0 and verdict.status in ZERO_REWARD
        )
        if not right:
            failures.append((case["gold"], case["answer"], case["equal"], verdict.status))
    assert failures == []


def test_an_unequal_answer_without_a_box_gets_no_reward() -> None:
    unequal = [case for case in PAIRS if not case["equal"]]
    assert [case for case in unequal if verify(case["answer"], {"answer": case["gold"]}).reward != 0.0] == []


def test_the_final_answer_of_a_response_is_the_one_that_is_graded() -> None:
    failures = []
    for case in RESPONSES:
        verdict = verify(case["answer"], {"answer": case["gold"]})
        if (verdict.status == "correct") != case["equal"] or verdict.reward is None:
            failures.append((case, verdict.status))
    assert failures == []


@pytest.mark.parametrize(
    "response",
    [
        r"<think>\boxed{2}</think>",
        r"<think>it may be \boxed{2}",
        r"<think>" + "a" * 40_000 + r"\boxed{2}",
        r"<think>2</think>" + "a long story\nwithout an end",
        "I add 1 and 1\nand get 2",
        r"\boxed{}",
        "   ",
        "",
    ],
)
def test_a_response_without_a_final_answer_gets_no_answer(response: str) -> None:
    assert verify(response, {"answer": "2"}).status == "no_answer"


@pytest.mark.parametrize("answer", ["0" * 2_000 + "42", "42+" + "0+" * 600 + "0", "(" * 60 + "42" + ")" * 60])
def test_an_answer_above_the_size_limits_is_rejected_even_if_its_value_is_right(answer: str) -> None:
    assert verify(boxed(answer), {"answer": "42"}).status == "rejected"


@pytest.mark.parametrize("problem", [{}, {"answer": ""}, {"answer": "  "}, {"answer": None}, {"answer": "#### "}])
def test_an_empty_gold_is_a_grader_error_and_never_a_reward(problem: dict[str, Any]) -> None:
    for answer in ("", r"\boxed{}", "42"):
        verdict = verify(answer, problem)
        assert (verdict.reward, verdict.status) == (None, "grader_error")
    assert check_problem(problem)[0].startswith("answer: ")


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("Natalia sold 48/2 = 24 clips.\n#### 24", "24"),
        (r"so the answer is \boxed{7}", "7"),
        ("He needs 3 more.\nA: 3", "3"),
        ("The answer is $5$.", "5"),
        (r"x \in \boxed{[0, 7)}", "0 <= x < 7"),
        (42, "42.0"),
        (0.5, "1/2"),
        (1e22, "10^{22}"),
    ],
)
def test_a_gold_may_be_a_number_or_a_whole_solution(gold: object, answer: str) -> None:
    assert verify(boxed(answer), {"answer": gold}).status == "correct"


def test_every_gold_of_the_data_passes_check_problem() -> None:
    assert [case["gold"] for case in CASES if check_problem({"answer": case["gold"]})] == []


@pytest.mark.parametrize(
    "gold",
    ["", "   ", r"\boxed{}", None, True, [], ["7", ""], {"a": 1}, "(" * 60, "x" * 2_000, "10^{10^{10}} + ", "$$"],
)
def test_check_problem_reports_a_gold_that_no_answer_can_equal(gold: object) -> None:
    problems = check_problem({"answer": gold})
    assert all(text.startswith("answer: must ") for text in problems)
    assert problems or gold == "10^{10^{10}} + "  # a text that cannot be computed still equals itself as a string


@pytest.mark.parametrize(
    ("answer", "status"),
    [("1/2", "correct"), ("0.25", "correct"), (r"\frac{2}{4}", "correct"), ("3", "wrong"), ("1/2, 0.25", "wrong")],
)
def test_any_of_several_golds_is_right(answer: str, status: str) -> None:
    assert verify(boxed(answer), {"answer": ["0.5", r"\frac{1}{4}"]}).status == status
    assert check_problem({"answer": ["0.5", r"\frac{1}{4}", 7]}) == []


def test_an_unusable_gold_among_several_never_makes_an_answer_wrong() -> None:
    golds = {"answer": ["", "7"]}
    assert verify(boxed("7"), golds).status == "correct"
    assert verify(boxed("8"), golds).status == "grader_error"
    assert verify(boxed("8"), {"answer": []}).status == "grader_error"


def test_the_reason_of_a_wrong_answer_does_not_contain_the_gold() -> None:
    assert "98765" not in verify(r"\boxed{1}", {"answer": "98765"}).reason
