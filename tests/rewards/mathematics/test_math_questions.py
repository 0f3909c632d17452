"""Check answers in view of the question: what only restates it, orders, what it asks for, and what it counts."""

import pytest

from rewards.mathematics.answer import verify
from rewards.mathematics.symbolic.questions import FORMULA_LIMIT, QUESTION_LIMIT, formulas

SUM = r"Compute $\sum_{k=1}^{10} k$."
PRODUCT = r"What is $123 \times 456$?"
DETERMINANT = r"\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix}"
COPRIME = r"The probability is $\frac{m}{n}$, where $m$ and $n$ are coprime. Find $m+n$."


def status(gold: str, question: object, answer: str) -> str:
    return verify(rf"\boxed{{{answer}}}", {"answer": gold, "question": question}).status


@pytest.mark.parametrize(
    ("gold", "question", "answer"),
    [
        ("55", SUM, r"\sum_{k=1}^{10} k"),
        ("55", SUM, r"S = \sum_{n=1}^{10} n"),
        ("55", SUM, r"\sum_{k=0}^{10} k"),
        ("55", SUM, r"\sum_{k=1}^{10} (k) + 0"),
        (r"\frac{\pi}{4}", r"Find $\int_0^1 \frac{1}{1+x^2} dx$.", r"\int_0^1 \frac{1}{1+t^2} dt"),
        ("56088", PRODUCT, r"123 \times 456"),
        ("56088", PRODUCT, r"456 \cdot 123"),
        ("56088", "What is 123*456?", r"123 \cdot 456"),
        ("8", "Compute 5 + 3.", "3 + 5"),
        ("8", r"Compute \(5 + 3\).", "x = 5 + 3"),
        ("8", "Compute $5 + 3$.", r"5 + 3 \text{ apples}"),
        ("1024", "Evaluate $2^{10}$.", "2^{10}"),
        ("6", r"Find $\gcd(12, 18)$.", r"\gcd(18, 12)"),
        ("6", "Find gcd(12, 18).", r"\gcd(12, 18)"),
        ("-2", f"Compute ${DETERMINANT}$.", DETERMINANT),
        ("2", r"Compute $17 \bmod 5$.", r"17 \bmod 5"),
        ("2", r"Find $\log_2 4$.", r"\log_2(4)"),
        ("4", r"Find \sqrt{16}.", r"\sqrt{16}"),
        ("4", r"Find $\sqrt{16}$.", "16^{1/2}"),
        ("120", "Compute $5!$.", "5!"),
        ("10", r"$$\binom{5}{2}=?$$", r"\binom{5}{2}"),
    ],
)
def test_a_formula_of_the_question_is_no_answer_to_it(gold: str, question: str, answer: str) -> None:
    verdict = verify(rf"\boxed{{{answer}}}", {"answer": gold, "question": question})
    assert (verdict.status, "only what the question asks" in verdict.reason) == ("wrong", True)
    assert status(gold, "", answer) == "correct"


@pytest.mark.parametrize(
    ("gold", "question", "answer"),
    [
        ("55", SUM, "55"),
        ("55", SUM, r"\sum_{k=1}^{9} k + 10"),
        ("55", SUM, r"\frac{10 \cdot 11}{2}"),
        ("56088", PRODUCT, r"2^3 \cdot 3 \cdot 19 \cdot 41 \cdot 3"),
        ("56088", PRODUCT, r"123 \times 456 = 56088"),
        ("1024", "How many subsets has a set of 10 elements?", "2^{10}"),
        ("1024", "Which is larger, $2^{10}$ or $3^6$?", "2^{10}"),
        ("1000000", "How many integers are there from $1$ to $10^6$?", "10^6"),
        ("300000000", r"Light has the speed $3 \times 10^8$ m/s. How fast is it?", r"3 \times 10^8"),
        ("3/4", r"Reduce $\frac{6}{8}$.", r"\frac{6}{8}"),
        ("90", r"One angle is $90^\circ$. Find the largest angle.", r"90^\circ"),
        ("0.5", r"It rains with a chance of $50\%$.", r"50\%"),
        ("2^{10}", "Write $2^{10}$ as a power of two.", "2^{10}"),
        ("2^{10}", "Write $4^5$ as a power of two.", "1024"),
        ("-3", "Find the smaller of $-3$ and $5$.", "-3"),
        (r"\sqrt{2}", r"Find the side of a square whose diagonal is 2, as $\sqrt{2}$.", r"\sqrt{2}"),
    ],
)
def test_a_value_is_an_answer_even_if_the_question_has_it(gold: str, question: str, answer: str) -> None:
    assert status(gold, question, answer) == "correct"


@pytest.mark.parametrize(
    ("gold", "question", "answer", "expected"),
    [
        ("1, 2, 3", "List them from least to greatest: 3, 1, 2.", "1, 2, 3", "correct"),
        ("1, 2, 3", "List them from least to greatest: 3, 1, 2.", "3, 1, 2", "wrong"),
        (r"\frac12, \sqrt2, 3", r"Put them in ascending order.", r"0.5, \sqrt2, 3.0", "correct"),
        (r"\frac12, \sqrt2, 3", r"Put them in ascending order.", r"\sqrt2, 0.5, 3", "wrong"),
        ("B, A, C", "Rank the towns A, B and C by size.", "B, A, C", "correct"),
        ("B, A, C", "Rank the towns A, B and C by size.", "A, B, C", "wrong"),
        ("B, A, C", "Arrange A, B and C in order of size.", "C, A, B", "wrong"),
        ("1, 2, 3", "Find all roots of the polynomial.", "3, 1, 2", "correct"),
        ("1, 2", "Find the roots of a matrix of rank 2.", "2, 1", "correct"),
        ("3, -2, 1", "Give the roots in increasing order.", "-2, 1, 3", "correct"),  # the gold is not sorted
    ],
)
def test_where_the_question_asks_for_an_order_lists_compare_in_order(
    gold: str, question: str, answer: str, expected: str
) -> None:
    assert status(gold, question, answer) == expected


@pytest.mark.parametrize(
    ("gold", "question", "answer", "expected"),
    [
        ("5", COPRIME, "m+n=5", "correct"),
        ("5", COPRIME, "n + m = 2 + 3 = 5", "correct"),
        ("113", COPRIME, "m+n=100+13=113", "correct"),
        ("113", COPRIME, "m+n=100+14=113", "wrong"),
        ("113", COPRIME, "m+n=114", "wrong"),
        ("113", COPRIME, "m-n=113", "wrong"),
        ("113", "", "m+n=113", "wrong"),
        ("25", "If $x = 5$, what is the value of $x^2$?", "x^2 = 25", "correct"),
        ("5", "Find half of $m+n$.", "m+n=5", "wrong"),
        ("5", "Find twice the value of $m+n$.", "m+n=5", "wrong"),
        ("5", "What is $m+n$ modulo 7?", "m+n=5", "wrong"),
        ("5", "Find $m+n$.", "m+n=", "wrong"),
        ("5", "If $x^2 = 25$ and $x > 0$, find $x$.", "x^2 = 5", "wrong"),
    ],
)
def test_an_expression_that_the_question_asks_for_names_the_answer(
    gold: str, question: str, answer: str, expected: str
) -> None:
    assert status(gold, question, answer) == expected


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("", "5 ordered pairs", "correct"),
        ("", "5 distinct ordered triples", "correct"),
        ("", "5 positive integers", "correct"),
        ("", r"5\text{ possible values}", "correct"),
        ("", "5 values", "correct"),
        ("", "5 real numbers", "correct"),
        ("How many pairs $(a, b)$ are there?", "5 pairs", "correct"),
        ("", "5 pairs", "wrong"),
        ("How many shoes are there?", "5 pairs", "wrong"),
        ("", "5 positive", "wrong"),
        ("", "5 negative overall", "wrong"),
        ("", "5 value", "wrong"),
        ("", "5 negative or positive integers", "wrong"),
        ("", "6 ordered pairs", "wrong"),
    ],
)
def test_a_number_may_count_pairs_integers_and_values(question: str, answer: str, expected: str) -> None:
    assert status("5", question, answer) == expected


def test_the_question_may_be_the_last_message_of_a_chat() -> None:
    problem = {"answer": "8", "prompt": [{"role": "user", "content": "Compute $5 + 3$."}]}
    assert verify(r"\boxed{5+3}", problem).status == "wrong"
    assert verify(r"\boxed{8}", problem).status == "correct"
    for other in ([], [1], [{"content": 1}], 5, None):
        assert verify(r"\boxed{5+3}", {"answer": "8", "prompt": other}).status == "correct"


def test_a_question_is_read_with_bounded_work() -> None:
    assert len(formulas("$x+1$ " * 200)) == FORMULA_LIMIT
    assert formulas(" " * QUESTION_LIMIT + "$x+1$") == ()
    for question in ("$" * 5_000, "(" * 5_000, "$" + "1+" * 900 + "1$", "\\[" * 2_000, "arrange " * 600, "9^" * 999):
        assert status("8", question, "5+3") == "correct"
    assert status("8", "Find $" + "k mod 9 " * 60 + "$.", "k" + " mod 9" * 60 + " = 8") == "wrong"
    assert status("8", "Compute $10^{10^{10}} + 5$ and $" + "{" * 200 + "$.", "5+3") == "correct"
