"""Check what the mathematics verifier decides by sympy, on the rows of `proofs.jsonl`, and the limits of sympy."""

import json
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest

from rewards.mathematics.answer import check_problem, verify
from rewards.mathematics.expressions.parser import parse
from rewards.mathematics.symbolic import limits
from rewards.mathematics.symbolic.limits import Undecided, limited, start_verdict
from rewards.mathematics.symbolic.sizes import check_size
from rewards.mathematics.symbolic.symbols import from_sympy, to_sympy

ROWS = [json.loads(line) for line in (Path(__file__).parent / "proofs.jsonl").read_text().splitlines()]
KINDS = sorted({row["kind"] for row in ROWS})
PROVED, SAMPLED = "equal by a proof of sympy", "equal at sampled points"


def boxed(answer: str) -> str:
    return rf"\boxed{{{answer}}}"


def test_the_rows_are_different_and_both_verdicts_are_frequent() -> None:
    assert len({(row["gold"], row["answer"]) for row in ROWS}) == len(ROWS) >= 280
    assert 0.4 < sum(row["equal"] for row in ROWS) / len(ROWS) < 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_gets_the_verdict_of_its_row(kind: str) -> None:
    failures = []
    for row in (row for row in ROWS if row["kind"] == kind):
        verdict = verify(boxed(row["answer"]), {"answer": row["gold"]})
        if (verdict.status == "correct") != row["equal"] or verdict.reward is None:
            failures.append((row["gold"], row["answer"], row["equal"], verdict.status, verdict.reason))
    assert failures == []


def test_every_gold_equals_itself() -> None:
    assert [row["gold"] for row in ROWS if check_problem({"answer": row["gold"]})] == []


@pytest.mark.parametrize(
    ("gold", "answer", "reason"),
    [
        ("|xy|", "|x||y|", PROVED),
        (r"\lfloor 3x \rfloor", r"\lfloor x \rfloor+\lfloor x+\frac13 \rfloor+\lfloor x+\frac23 \rfloor", PROVED),
        (r"\lfloor 2x^2 \rfloor", r"\lfloor x^2 \rfloor+\lfloor x^2+\frac12 \rfloor", SAMPLED),  # a step of a square
        (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}", PROVED),
        (r"\sum_{k=1}^{n} \frac{k}{k^4+1}", r"\sum_{k=1}^{n-1} \frac{k}{k^4+1}+\frac{n}{n^4+1}", SAMPLED),
        (r"\sum_{k=1}^{10} k", "55", ""),  # written out, so exact numbers decide
        ("x^2<4", "(-2,2)", PROVED),
    ],
)
def test_the_reason_says_whether_sympy_or_sampling_decided(gold: str, answer: str, reason: str) -> None:
    verdict = verify(boxed(answer), {"answer": gold})
    assert (verdict.status, verdict.reason) == ("correct", reason)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\int_0^1 \cos(\cos(\cos x))\,dx", "0.7"),  # no closed form
        (r"\sum_{n=1}^{\infty}\frac{1}{n^3}", "1.2"),
        (r"\int_0^2 f(x)\,dx", r"\int_0^3 f(x)\,dx"),
    ],
)
def test_what_sympy_cannot_decide_is_not_correct_and_says_so(gold: str, answer: str) -> None:
    verdict = verify(boxed(answer), {"answer": gold})
    assert verdict.status == "wrong" and verdict.reward == 0.0 and verdict.reason.startswith("undecided: ")


def test_a_difference_between_two_close_breakpoints_is_found() -> None:
    """(x - 3.001)(x - 3.002) is negative between 3.001 and 3.002 only, far from the constants of its expansion."""
    gold, inside = "|x^2-6.003x+9.009002|", Fraction("3.0015")
    assert inside**2 - Fraction("6.003") * inside + Fraction("9.009002") == Fraction("-0.00000025")
    assert verify(boxed("x^2-6.003x+9.009002"), {"answer": gold}).status == "wrong"
    assert verify(boxed("|x-3.001||x-3.002|"), {"answer": gold}).reason == PROVED


def test_an_operator_of_the_question_is_no_answer_to_it() -> None:
    problem = {"answer": "55", "question": r"Compute $\sum_{k=1}^{10} k$."}
    assert verify(boxed(r"\sum_{k = 1}^{10} k"), problem).status == "wrong"
    assert verify(boxed(r"S = \sum_{k=1}^{10} k"), problem).status == "wrong"
    assert verify(boxed(r"\sum_{k=1}^{11} k - 11"), problem).status == "correct"
    assert verify(boxed("55"), problem).status == "correct"
    assert verify(boxed(r"\sum_{k=1}^{10} k"), problem | {"answer": r"\sum_{k=1}^{10} k"}).status == "correct"


def test_a_call_of_sympy_ends_at_its_limit_even_if_it_suppresses_exceptions() -> None:
    def endless() -> None:
        while True:
            try:
                while True:
                    pass
            except Exception:
                continue

    start_verdict()
    started = time.process_time()
    with pytest.raises(Undecided):
        limited(endless)
    assert time.process_time() - started < 4 * limits.CALL_S
    with pytest.raises(Undecided):  # no time is left to this verdict
        limited(lambda: 1)
    start_verdict()
    assert limited(lambda: 1) == 1


def test_sympy_is_not_called_outside_the_main_thread_which_is_undecided() -> None:
    verdicts = []

    def judge() -> None:
        verdicts.append(verify(boxed("2"), {"answer": r"\sum_{n=0}^\infty\frac{1}{2^n}"}))
        verdicts.append(verify(boxed("|x||y|"), {"answer": "|xy|"}))

    thread = threading.Thread(target=judge)
    thread.start()
    thread.join()
    assert verdicts[0].reason.startswith("undecided: ") and verdicts[1].reason == SAMPLED


@pytest.mark.parametrize(
    "text",
    [
        "x^{41}",
        "(x+y+z)^{40}",
        "+".join("x" * 160),
        "(x^{20})^{3}",
        "x" + "(x+1)" * 41,
        r"\sqrt{2}^{10^9}",
        r"2^{\sqrt{10^{18}}}",
        "2^{x-x+10^9}",
        "2^{(x-x+100)(x-x+100)}",
        "(x-x+10^9)!",
        r"\binom{x-x+10^9}{5}",
        r"\sum_{k=1}^{10^9} 2^k",
        r"\sum_{k=1}^{10^9} \sum_{j=1}^{k} 2^j",
        r"\lim_{x\to 10^9} 2^x",
        r"\int_0^{100} 2^{2^x} dx",
        r"\prod_{k=1}^{10^9} k!",
        r"2^{\frac{1}{x-x+0.000001}}",
        r"\sqrt[0.000001]{2}",
    ],
)
def test_a_tree_too_large_for_sympy_is_undecided_before_sympy_gets_it(text: str) -> None:
    with pytest.raises(Undecided):
        check_size(parse(text))


@pytest.mark.parametrize(
    "text",
    [r"\frac{x^2+1}{y-3}", r"\sqrt{2}\pi e^{ix}", r"\ln x+\sin(x)", r"|x|-\lfloor y \rfloor", r"\binom{n}{2}-n!"],
)
def test_a_tree_survives_the_way_to_sympy_and_back(text: str) -> None:
    names: dict = {}
    expression = to_sympy(parse(text), names)
    back = from_sympy(expression, names)
    assert to_sympy(back, names) == expression
