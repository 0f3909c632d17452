"""Check how the mathematics verifier reads units, names, notations and responses, on the rows of `readings.jsonl`."""

import json
from pathlib import Path

import pytest

from rewards.mathematics.answer import check_problem, verify

ROWS = [json.loads(line) for line in (Path(__file__).parent / "readings.jsonl").read_text().splitlines()]
KINDS = sorted({row["kind"] for row in ROWS})


def test_the_rows_are_different_and_both_verdicts_are_frequent() -> None:
    assert len({(row["gold"], row["response"]) for row in ROWS}) == len(ROWS) >= 400
    assert 0.4 < sum(row["correct"] for row in ROWS) / len(ROWS) < 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_a_response_gets_the_verdict_of_its_row(kind: str) -> None:
    failures = []
    for row in (row for row in ROWS if row["kind"] == kind):
        verdict = verify(row["response"], {"answer": row["gold"]})
        if (verdict.status == "correct") != row["correct"] or verdict.reward is None:
            failures.append((row["gold"], row["response"], row["correct"], verdict.status, verdict.reason))
    assert failures == []


def test_every_gold_equals_itself() -> None:
    assert [row["gold"] for row in ROWS if check_problem({"answer": row["gold"]})] == []


@pytest.mark.parametrize(
    ("question", "answer", "status"),
    [
        ("How many wugs does Ann have?", "5 wugs", "correct"),
        ("Ann has 3 blue wugs and buys 2 wugs.", "5 blue wugs", "correct"),
        ("Ann has 3 blue wugs and buys 2 wugs.", "6 wugs", "wrong"),
        ("How many wugs does Ann have?", "5 snarks", "wrong"),
        ("How many tenths are in a half?", "5 tenths", "wrong"),  # it reads as 1/2
    ],
)
def test_a_noun_that_the_question_counts_may_follow_the_number(question: str, answer: str, status: str) -> None:
    assert verify(rf"\boxed{{{answer}}}", {"answer": "5", "question": question}).status == status
    assert verify(r"\boxed{5 wugs}", {"answer": "5"}).status == "wrong"


def test_the_reason_says_what_decided() -> None:
    proved = verify(r"\boxed{|x||y|}", {"answer": "|xy|"})
    assert (proved.status, proved.reason) == ("correct", "equal by a proof of sympy")
    sampled = verify(r"\boxed{|f(x)||f(y)|}", {"answer": "|f(x)f(y)|"})
    assert (sampled.status, sampled.reason) == ("correct", "equal at sampled points")
    assert verify(r"\boxed{1+\sqrt{x}}", {"answer": r"\sqrt{x}+1"}).reason == ""  # equal whatever the root is
    undecided = verify(r"\boxed{\ln(-x)}", {"answer": r"\ln x"})  # nowhere are both real
    assert undecided.status == "wrong" and undecided.reason.startswith("undecided: ")
    assert verify(r"\boxed{2\ln x}", {"answer": r"3\ln x"}).reason.startswith(r"2\ln x is not")
