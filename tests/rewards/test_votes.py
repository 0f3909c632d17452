"""Which answers agree on a final answer, for the majority vote of maj@k."""

import pytest

from rewards.arithmetic import countdown, first_number, scratchpad_sum
from rewards.mathematics import answer as mathematics
from rewards.programs import testing as programs
from rewards.signatures import to_verdict
from rewards.sql import query
from rewards.verdict import RIGHT_VOTE

SQL = {
    "schema_sql": "CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (1), (2), (3)",
    "gold_sql": "SELECT a FROM t WHERE a > 1",
}


def vote(text: str, gold: str = "72") -> str:
    return mathematics.verify(text, {"answer": gold}).vote


def test_right_mathematical_answers_agree_and_wrong_ones_agree_where_they_are_the_same_number() -> None:
    assert vote(r"\boxed{1/2}", "0.5") == vote(r"so \boxed{\frac12}", "0.5") == RIGHT_VOTE
    assert vote(r"\boxed{x+1}", "1+x") == RIGHT_VOTE
    halves = {vote(text) for text in (r"\boxed{1/2}", r"\boxed{0.5}", r"it is \boxed{\frac{1}{2}}", r"\boxed{.50}")}
    assert len(halves) == 1 and "" not in halves
    assert vote(r"\boxed{3}") == vote(r"\boxed{3.0}") != vote(r"\boxed{4}")
    assert vote(r"\boxed{x + 1}") == vote(r"\boxed{x+1}") not in {"", RIGHT_VOTE}


def test_an_answer_without_a_final_answer_has_no_vote() -> None:
    assert mathematics.verify("I do not know", {"answer": "72", "extraction": "boxed"}).vote == ""
    assert vote(r"\boxed{" + "9" * 2000 + "}") == "", "longer than any answer that is compared"
    assert countdown.verify("3+", {"numbers": [3, 7], "target": 10}).vote == ""
    assert query.verify("SELECT b FROM t", SQL).vote == ""


def test_countdown_answers_agree_on_an_expression_up_to_the_order_of_its_sums() -> None:
    problem = {"numbers": [3, 7, 12], "target": 22}
    votes = [countdown.verify(text, problem).vote for text in ("3+7+12", "12+(7+3)", "3*7+12", "12+7*3")]
    assert votes[0] == votes[1] != votes[2] == votes[3]


def test_queries_agree_on_their_result_and_numbers_on_their_digits() -> None:
    right = query.verify("SELECT a FROM t WHERE a >= 2", SQL)
    wrong = [query.verify(f"SELECT a FROM t WHERE a {rule}", SQL).vote for rule in ("< 3", "<= 2", "< 2")]
    assert (right.status, right.vote) == ("correct", RIGHT_VOTE)
    assert wrong[0] == wrong[1] != wrong[2] and RIGHT_VOTE not in wrong
    assert first_number.verify(" 12\n13", {"number": 5}).vote == "12"
    assert scratchpad_sum.verify("</scratch>\n1 0 2", {"operands": [1, 2]}).vote == "102"


@pytest.mark.slow
def test_programs_have_no_vote() -> None:
    problem = {"kind": "assert", "entry_point": "f", "tests": "def check(f):\n    assert f() == 1\n"}
    assert programs.verify("def f():\n    return 1\n", problem).vote == ""


def test_a_function_of_the_user_may_return_a_vote() -> None:
    assert to_verdict({"reward": 0, "vote": "17"}).vote == "17"
    assert to_verdict({"reward": 0, "vote": 17}).vote == "", "a vote is a text"
