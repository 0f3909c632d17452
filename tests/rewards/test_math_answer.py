"""The mathematics verifier against tables of pairs and hostile answers."""

import pytest

from rewards.math_answer import verify

EQUAL = [
    ("42", "42"),
    ("42", "42."),
    ("42", "**42**"),
    ("42", "４２"),
    ("42", "+42"),
    (42, "42.0"),
    (0.5, r"\frac12"),
    ("0.5", "1/2"),
    ("1/2", ".5"),
    (r"\frac{1}{2}", r"\dfrac{2}{4}"),
    (r"-\frac{3}{4}", "-0.75"),
    (r"\frac{-3}{4}", "-3/4"),
    ("1e-3", "0.001"),
    ("6.02e23", r"6.02 \times 10^{23}"),
    ("1000000", "10^6"),
    ("7 3/4", "31/4"),
    (r"4\frac{2}{3}", "14/3"),
    ("-2 1/2", "-2.5"),
    ("½", "0.5"),
    ("7½", "7.5"),
    ("12345", r"12\,345"),
    ("1234567", "1,234,567"),
    ("1234567", "1{,}234{,}567"),
    ("1,000", r"\$1000"),
    ("18", "$18"),
    ("5", "5 cm"),
    ("5", r"5\text{ cm}"),
    ("5", r"5\,\mathrm{m}"),
    ("25", r"25 \text{ cm}^2"),
    ("25 square units", "25"),
    ("60", "60 miles per hour"),
    ("60", r"60^\circ"),
    ("60°", "60"),
    ("50", "50%"),
    (r"50\%", "50 percent"),
    ("0.5", r"50\%"),
    ("5", "x=5"),
    ("x = 5", "5"),
    ("x=5", "x = 5.0"),
    ("1,2,3", "3, 1, 2"),
    ("1,2", r"\{2, 1\}"),
    ("2, 3", r"2 \text{ and } 3"),
    ("2, 3", "x=2 or x=3"),
    ("1, 2, 3", "1, 2, and 3"),
    ("(1, 2)", r"\left( 1, \frac{4}{2} \right)"),
    ("[0,1)", r"\left[0, 1\right)"),
    (r"(-\infty, 2)", "(-∞, 2)"),
    (r"(-\infty, 2)", "x<2"),
    (r"(-\infty,1)\cup(2,\infty)", r"(2,\infty) \cup (-\infty, 1)"),
    ("3", r"\sqrt{9}"),
    (r"\sqrt{2}", "√2"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
    (r"2\pi", "2π"),
    ("x+1", "1+x"),
    ("x^2+2x+1", "(x+1)^2"),
    ("x²", "x^2"),
    ("0.1x", r"\frac{x}{10}"),
    ("2^{10}", "1024"),
    ("2^{53}+1", "9007199254740993"),
    ("5!", "120"),
    (r"\frac{\sqrt{3}}{2}", r"\sin 60^\circ"),
    ("-1", "i^2"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 8/2 \end{pmatrix}"),
    (r"\pm 3", "3, -3"),
    (r"1 \pm \sqrt{2}", r"1-\sqrt{2}, 1+\sqrt{2}"),
    ("C", "C."),
    ("C", "(C)"),
    (r"\text{C}", "c"),
    ("Saturday", r"\text{saturday}"),
    ("True", "true"),
    ("204_5", "204_{5}"),
    ("3:4", "3 : 4"),
    (r"\emptyset", r"\varnothing"),
    (r"\infty", "∞"),
    ("y=2x+3", "y = 3 + 2x"),
    ("Natalia sold 48/2 = 24 clips.\n#### 24", "24"),
    (r"so the answer is \boxed{7}", "7"),
    ("1,234", "1234"),
    ("no solution", r"\text{No solution}"),
]

HEDGES = [
    "42 nor 43",
    "42|43",
    "42; 43",
    r"42 \\ 43",
    r"42 \approx 43",
    r"42 \to 43",
    r"42 \neq 43",
    "42 43",
    r"42\quad 43",
    r"42\text{ }43",
    "42 = 43",
    "42 & 43",
    "42 / 43",
    "42_{43}",
    "42!",
    "42 but maybe 43",
    "either 42 or 41",
    "not 42",
    "~42 to 44",
    "42-ish",
    "42...50",
    "40..44",
    "[42, 43]",
    "x=42, x=43",
    r"42 \lor 43",
    r"42 \vee 43",
    r"42 \cup 43",
    "<43",
    "x<43",
    "42?",
    "42 \n43",
    "4 2",
    "4,2",
    "42x",
    "42e",
    r"42\%%",
    "{42}{43}",
    "42 or",
]
UNEQUAL = [
    ("42", "43"),
    ("10001", "10000"),
    ("10000", "10001"),
    ("1/3", "0.33"),
    ("1/3", "0.333333333"),
    ("0.333333", r"\frac{\sqrt{1}}{3}"),
    ("16386.16", "16386.17"),
    ("0.0000001", "0"),
    ("1e-9", "2e-9"),
    (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"),
    ("12345678901234567890", "12345678901234567891"),
    ("9007199254740993", "2^{53}"),
    ("10^{100}+1", "10^{100}"),
    ("-2 1/2", "-1.5"),
    (r"4\frac{2}{3}", "8/3"),
    ("204_5", "204_6"),
    ("204", "204_5"),
    ("42", r"42\text{ or any other number}"),
    ("42", r"42 \text{ or } 43"),
    ("42", "42, 43"),
    ("42", "41, 42"),
    ("42", r"\{42, 43\}"),
    ("42", "42 or 42.5"),
    ("42", "42 apples and pears"),
    ("42", "the number 42 I think"),
    ("1", r"\frac{\infty}{\infty}"),
    ("1", "0/0"),
    ("1", "1/0"),
    (r"\sqrt[3]{2}", r"\sqrt{2}"),
    ("50", "0.5"),
    ("5", "500"),
    (r"\pi", "3.14"),
    (r"\pi", "3.14159265358979"),
    (r"2\pi", "6.28"),
    ("[0,1)", "[0,1]"),
    ("[0,1)", "(0,1)"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "1,2"),
    ("(1,2)", "(1,2,3)"),
    ("1,2", "1,2,2"),
    ("1,2,2", "1,1,2"),
    ("3,4", "34"),
    ("34", "3,4"),
    ("1234", "1,23,4"),
    ("123", "0,123"),
    ("102", "10²"),
    ("A", "A, B, C, D"),
    ("A", "B"),
    ("1", "2x+z=1"),
    ("x=5", "y=5"),
    ("5", "x=6"),
    ("x+1", "x+2"),
    ("x", r"\sqrt{x^2}"),
    (r"|x|", "x"),
    ("x<2", "x>2"),
    (r"(-\infty, 2)", r"x\leq 2"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&5\end{pmatrix}"),
    (r"\pm 3", "3"),
    ("3:4", "4:3"),
    ("12:30", "12.5"),
    ("Saturday", "Sunday"),
    ("n", "N"),
    ("1-1/e", "1+1/e"),
    ("42", "٤٢"),
    ("42", ""),
    ("42", r"\boxed{}"),
    ("5", "5x"),
    ("5", "5 5"),
    ("0.1", "0.1000000000000000001"),
    ("-5", "5"),
    ("#### 5", "50"),
    ("1.5", "1.5^2"),
    ("2.25", "1.5^3"),
    ("5", "5 feet 3 inches"),
    ("x^2", "x^3"),
    ("2x", "x^2"),
    ("xy", "x+y"),
    ("x+1=2", "1"),
    ("100", r"\binom{100}{50}"),
    *[("42", hedge) for hedge in HEDGES],
]

HOSTILE = [
    "9" * 100_000,
    "(" * 100_000,
    "{" * 50_000 + "}" * 50_000,
    r"\boxed{" * 15_000,
    r"\boxed{" * 4_000 + "5" + "}" * 4_000,
    r"\boxed{" + "(" * 400 + "1" + ")" * 400 + "}",
    "9**9**9**9",
    "9^{9^{9^{9}}}",
    "((9^9999)^9999)^9999",
    "(10^{8})!",
    "100000000!",
    "3!!!!!!",
    r"\boxed{\sum_{n=1}^{10^{10}} \frac{1}{n}}",
    r"\boxed{\int_0^{9^9} x^x dx}",
    "1e999999999",
    "1e9999",
    r"10^{9999999999}",
    "__import__('os').system('touch /tmp/never')",
    r"\pi.__class__",
    "\x00" * 100,
    "4\x002",
    "\ud800\udfff",
    "\\boxed{\ud800}",
    "٤٢" * 50,
    "%" * 5_000,
    r"\text{" * 100,
    "1/" * 100,
    "-" * 151 + "42",
    "****",
    "$" * 199,
    r"\boxed{" + "1," * 400 + "}",
    r"\boxed{\frac" + "{1}" * 200 + "}",
    r"\begin{pmatrix}" * 10,
    "x=" * 60,
    "#### ",
    "The answer is",
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_an_equal_answer_is_correct(gold: object, answer: str) -> None:
    assert verify(rf"Thus \boxed{{{answer}}}.", {"answer": gold}).status == "correct"


@pytest.mark.parametrize(("gold", "answer"), UNEQUAL)
def test_an_unequal_answer_is_never_correct(gold: object, answer: str) -> None:
    for text in (answer, rf"\boxed{{{answer}}}"):
        verdict = verify(text, {"answer": gold})
        assert verdict.reward == 0.0
        assert verdict.status in ("wrong", "no_answer", "rejected")


@pytest.mark.parametrize("gold", ["42", "x+1"])
@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_answer_is_a_zero_with_a_reason(gold: str, answer: str) -> None:
    verdict = verify(answer, {"answer": gold})
    assert verdict.reward == 0.0
    assert verdict.reason
    assert len(verdict.reason) <= 500


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"First \boxed{1}, but then \boxed{2}.", "2"),
        (r"\boxed{\frac{1}{2}} and an unfinished \boxed{3", "1/2"),
        (r"<think>\boxed{1}</think> It is \boxed{2}", "2"),
        (r"\boxed{\boxed{2}}", "2"),
        (r"a set \{ is open, \boxed{2}", "2"),
        (r"\fbox{2}", "2"),
        ("Adding gives 2.\n#### 2", "2"),
        ("#### 1\nno,\n#### 2\nbye", "2"),
        ("The answer is 1. No: the answer is 2.", "2"),
        ("Final Answer: $2$", "2"),
        ("  2 ", "2"),
        ("The answer is 1,200 dollars.", "1200"),
    ],
)
def test_the_answer_a_response_commits_to_counts(response: str, answer: str) -> None:
    assert verify(response, {"answer": answer}).status == "correct"


@pytest.mark.parametrize(
    "response",
    [
        r"<think>\boxed{2}</think>",
        r"<think>it may be \boxed{2}",
        r"<think>2</think>" + "a long story\nwithout an end",
        "I add 1 and 1\nand get 2",
        "   ",
        "",
    ],
)
def test_a_response_that_commits_to_nothing_has_no_answer(response: str) -> None:
    assert verify(response, {"answer": "2"}).status == "no_answer"


@pytest.mark.parametrize("problem", [{}, {"answer": ""}, {"answer": "  "}, {"answer": None}, {"answer": "#### "}])
def test_an_empty_gold_is_a_grader_error_and_never_a_reward(problem: dict) -> None:
    for answer in ("", r"\boxed{}", "42"):
        verdict = verify(answer, problem)
        assert (verdict.reward, verdict.status) == (None, "grader_error")


def test_the_reason_of_a_wrong_answer_does_not_tell_the_gold() -> None:
    assert "98765" not in verify(r"\boxed{1}", {"answer": "98765"}).reason
