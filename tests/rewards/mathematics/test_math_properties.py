"""Properties of the mathematics verifier: symmetric, independent of notation, and total over all texts."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rewards.mathematics.answer import verify

LINES = (Path(__file__).parent / "pairs.jsonl").read_text().splitlines()
PAIRS = [case for case in map(json.loads, LINES) if case["kind"] != "response"]
GOLDS = sorted({str(case["gold"]) for case in PAIRS} | {case["answer"] for case in PAIRS if case["equal"]})
RESPELLINGS: dict[str, Callable[[str], str]] = {
    "box": lambda gold: rf"\boxed{{{gold}}}",
    "box in a sentence": lambda gold: (
        rf"Hence, as we saw, the value is $\boxed{{ {gold} }}.$ This completes the proof."
    ),
    "after other boxes": lambda gold: rf"First \boxed{{17}}. No, wait. It is $$\boxed{{{gold}}}$$",
    "after thoughts": lambda gold: f"<think>perhaps \\boxed{{17}}?</think>\nSo it is \\boxed{{{gold}}}",
    "dollars": lambda gold: rf"\boxed{{${gold}$}}",
    "full stop": lambda gold: rf"\boxed{{{gold}.}}",
    "bold": lambda gold: rf"\boxed{{**{gold}**}}",
    "hashes": lambda gold: f"Some steps first.\n#### {gold}",
    "big brackets": lambda gold: r"\boxed{" + gold.replace("(", r"\left(").replace(")", r"\right)") + "}",
    "other fractions": lambda gold: r"\boxed{" + gold.replace(r"\frac", r"\dfrac") + "}",
    "thin spaces": lambda gold: rf"\boxed{{\, {gold}\;}}",
    "white space": lambda gold: "\\boxed{\n" + gold.replace(", ", ",  ") + "\n}",
}
PIECES = r"""\boxed{ } \frac \sqrt { } ( ) [ ] \left( \right) ^ _ + - * / = < > , ; : . ! | % $ & \\ \{ \} \text{ or
and x y i \pi \infty \cup \in \pm \sin \log \begin{pmatrix} \end{pmatrix} \binom \overline \circ 0 1 2 42
10 3.5 #### answer is <think> </think> √ ² ½ π ∞ − ４ cm percent"""
FRAGMENTS = st.sampled_from([*PIECES.split(), " ", "\n", "\u200b", "\ud800"])


def correct(answer: str, gold: object) -> bool:
    return verify(rf"\boxed{{{answer}}}", {"answer": gold}).status == "correct"


def test_equality_is_symmetric() -> None:
    two_way = [case for case in PAIRS if not case.get("one_way")]
    assert [case for case in two_way if correct(str(case["gold"]), case["answer"]) != case["equal"]] == []


@pytest.mark.parametrize("name", RESPELLINGS)
def test_a_gold_in_another_notation_stays_correct(name: str) -> None:
    respell = RESPELLINGS[name]
    # A bold mark next to a star, or a full stop next to a mark, would change the text.
    golds = [gold for gold in GOLDS if not (gold.startswith(("*", "`")) or gold.endswith(("*", "`", "\\")))]
    assert [gold for gold in golds if verify(respell(gold), {"answer": gold}).status != "correct"] == []


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    text=st.one_of(st.text(max_size=200), st.lists(FRAGMENTS, max_size=25).map("".join)), gold=st.sampled_from(GOLDS)
)
def test_no_text_raises_and_every_reward_is_zero_or_one(text: str, gold: str) -> None:
    for response in (text, rf"\boxed{{{text}}}"):
        verdict = verify(response, {"answer": gold})
        assert verdict.reward in (0.0, 1.0)
        assert (verdict.reward == 1.0) == (verdict.status == "correct")
    assert verify("42", {"answer": text}).status in ("correct", "wrong", "rejected", "grader_error")


@settings(max_examples=50, deadline=None, derandomize=True)
@given(above=st.integers(-(10**6), 10**6), below=st.integers(1, 10**4), other=st.fractions(max_denominator=10**5))
def test_fractions_are_equal_exactly_when_their_values_are(above: int, below: int, other: Fraction) -> None:
    gold = Fraction(above, below)
    spellings = [f"{above}/{below}", rf"\frac{{{above}}}{{{below}}}", rf"\dfrac{{{-above}}}{{{-below}}}", str(gold)]
    whole, rest = divmod(abs(gold.numerator), gold.denominator)
    sign = "-" if gold < 0 else ""
    spellings += [rf"{sign}{whole}\frac{{{rest}}}{{{gold.denominator}}}"] if rest else [f"{sign}{whole}.0"]
    for spelling in spellings:
        assert correct(spelling, str(gold))
        assert correct(spelling, str(other)) == (other == gold)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(roots=st.lists(st.integers(-9, 9), min_size=2, max_size=3), wrong=st.integers(-3, 3))
def test_a_polynomial_equals_its_own_factors_only(roots: list[int], wrong: int) -> None:
    coefficients = [1]
    for root in roots:
        shifted = [*coefficients, 0]
        coefficients = [a - root * b for a, b in zip(shifted, [0, *coefficients], strict=True)]
    degree = len(roots)
    expanded = "+".join(f"{c}x^{{{degree - place}}}" for place, c in enumerate(coefficients))
    factored = "".join(f"(x-{root})" if root >= 0 else f"(x+{-root})" for root in roots)
    assert correct(factored, expanded)
    assert correct(f"{factored}+{wrong}", expanded) == (wrong == 0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(items=st.lists(st.integers(-50, 50), min_size=2, max_size=6), data=st.data())
def test_a_list_is_equal_in_any_order_and_a_tuple_in_one_order_only(items: list[int], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(items))
    assert correct(", ".join(map(str, shuffled)), ", ".join(map(str, items)))
    ours, theirs = (f"({', '.join(map(str, each))})" for each in (items, shuffled))
    assert correct(theirs, ours) == (items == shuffled)
    assert not correct(", ".join(map(str, [*items, 7])), ", ".join(map(str, items)))
