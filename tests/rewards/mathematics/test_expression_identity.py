"""Check the comparison of expression trees: the seeded points, the sampled lines and the three results."""

from fractions import Fraction

import pytest

from rewards.mathematics.expressions.evaluation import exact
from rewards.mathematics.expressions.identity import GROUNDS, compare
from rewards.mathematics.expressions.parser import parse
from rewards.mathematics.expressions.relations import same_relation
from rewards.mathematics.expressions.sampling import assignments, generator, line_assignments
from rewards.mathematics.expressions.trees import abstracted, ordered, piecewise_nodes


def test_the_points_depend_on_both_texts_and_are_the_same_each_time() -> None:
    points = assignments(["x", "y"], generator("x+y", "y+x"))
    assert points == assignments(["x", "y"], generator("x+y", "y+x"))
    other = [value for point in assignments(["x", "y"], generator("x+y", "y+x+0")) for value in point.values()]
    assert not {value for point in points for value in point.values()} & set(other)


def test_a_polynomial_that_is_zero_at_the_points_of_another_pair_is_different() -> None:
    gold = parse("x^2")
    points = [point["x"] for point in assignments(["x"], generator(repr(gold), repr(parse("x^2+1"))))]
    zeros = "".join(f"(x-({point.numerator}/{point.denominator}))" for point in points)
    assert compare(gold, parse(f"x^2+{zeros}")) == "different"


def test_the_points_have_both_signs_and_values_below_one() -> None:
    points = assignments(["x", "y", "z"], generator("a", "b"))
    assert all(value > 1 for value in points[0].values()) and all(value < -1 for value in points[2].values())
    assert all(0 < abs(value) < 1 for value in points[3].values())


@pytest.mark.parametrize(
    ("gold", "answer", "result", "notes"),
    [
        ("(x+1)^2", "x^2+2x+1", "equal", set()),
        (r"\sqrt{x}+\sqrt{x}", r"2\sqrt{x}", "equal", set()),  # an identity of 2r and r + r
        (r"\sqrt{4x}", r"2\sqrt{x}", "equal", {"proved"}),
        (r"\lfloor 2x \rfloor", r"\lfloor x \rfloor+\lfloor x+\frac{1}{2} \rfloor", "equal", {"proved"}),
        (r"\lfloor 2x^2 \rfloor", r"\lfloor x^2 \rfloor+\lfloor x^2+\frac{1}{2} \rfloor", "equal", {"sampled"}),
        (r"\lfloor x/3 \rfloor", r"\lfloor (x+10^{-9})/3 \rfloor", "different", set()),
        (r"\lfloor 7x \rfloor", r"\lceil 7x \rceil-1", "different", set()),  # equal except at k/7
        ("|x-10^9|", "10^9-x", "different", set()),
        (r"\ln x", r"\ln(-x)", "undecided", {"undecided"}),
    ],
)
def test_comparing_trees_has_three_results(gold: str, answer: str, result: str, notes: set[str]) -> None:
    GROUNDS.notes.clear()
    assert compare(parse(gold), parse(answer)) == result
    assert GROUNDS.notes == notes


def test_a_comparison_that_takes_too_much_work_is_undecided() -> None:
    GROUNDS.notes.clear()
    gold = parse("+".join(f"|x-{k}|" for k in range(40)))
    answer = parse("+".join(f"|{k}-x|" for k in range(40)))
    assert compare(gold, answer) == "undecided" and GROUNDS.notes == {"undecided"}


def test_lines_pass_through_the_breakpoints_and_close_to_both_sides_of_them() -> None:
    trees = parse(r"\lfloor\frac{3x}{7}\rfloor"), parse("x")

    def evaluate(node: tuple, assignment: dict[str, Fraction]) -> Fraction | None:
        return exact(node, assignment)

    pieces = piecewise_nodes(*trees)
    places = [point["x"] for point in line_assignments(trees, pieces, ["x"], generator("a"), evaluate)]
    breaks = {Fraction(7, 3), Fraction(-7, 3), Fraction(0)} & set(places)
    assert breaks == {Fraction(7, 3), Fraction(-7, 3), Fraction(0)}  # 3x/7 passes 1, -1 and 0
    for place in (Fraction(7, 3), Fraction(-7, 3)):
        for sign in (-1, 1):
            assert any(0 < sign * (other - place) < Fraction(1, 10**20) for other in places)


def test_equal_pieces_get_one_symbol_and_different_pieces_two() -> None:
    names: dict[str, str] = {}
    left, right = (abstracted(parse(text), names) for text in (r"\sqrt{x+1}\ln y", r"\ln y\sqrt{1+x}"))
    assert ordered(left) == ordered(right) and len(names) == 2
    abstracted(parse(r"\sqrt{x+2}"), names)
    assert len(names) == 3


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        (["F", "ma"], ["a", r"\frac{F}{m}"], True),  # F - ma = -m (a - F/m), undefined at m = 0
        (["PV", "nRT"], ["T", r"\frac{PV}{nR}"], True),
        (["x(y-1)", "0x"], ["y", "1+0x"], False),  # the first also holds at x = 0
        (["x^2(y-x)", "0"], ["y", "x"], False),
        ([r"(x^2+1)(y-x)", "0"], ["y", "x"], False),  # equal, but the factor is no product of powers
        (["a", "b"], ["a^2", "b^2"], False),
    ],
)
def test_equations_are_equal_up_to_a_factor_that_is_never_zero(gold: list[str], answer: list[str], equal: bool) -> None:
    assert same_relation(gold, answer, ordered=False) == equal
    assert same_relation(answer, gold, ordered=False) == equal
    assert not (equal and same_relation(gold, answer, ordered=True))
