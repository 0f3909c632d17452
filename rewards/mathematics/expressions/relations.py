"""Decide whether two equations or inequalities, each a left and a right side, are the same relation."""

from fractions import Fraction
from typing import Any

from rewards.mathematics.expressions.agreement import EQUAL_DIGITS, evaluate_both
from rewards.mathematics.expressions.evaluation import CONTEXTS, Convention
from rewards.mathematics.expressions.identity import parse_or_none
from rewards.mathematics.expressions.parser import Node
from rewards.mathematics.expressions.sampling import Assignment, assignments, generator
from rewards.mathematics.expressions.trees import symbols


def same_relation(gold: list[str], answer: list[str], ordered: bool) -> bool:
    """Return whether two relations are the same up to a factor that is never zero.

    With d = left - right of each, the ratio d_gold / d_answer must be the same nonzero constant at every point. In an
    equation it may also be a product of powers of symbols, as between `F = ma` and `a = F/m`, if for each of these
    symbols one of the two is undefined where it is 0: `x(y-1) = 0` is not `y = 1`.
    Example: `["2x", "4"]` and `["x", "2"]` -> True. Returns False if a side cannot be parsed.

    Args:
        ordered: the relation has a direction, as `<` has, so the constant must also be positive.
    Raises: TooLarge.
    """
    gold_tree, answer_tree = _difference(gold), _difference(answer)
    if gold_tree is None or answer_tree is None:
        return False
    names = sorted(symbols(gold_tree))
    if not names or names != sorted(symbols(answer_tree)):
        return False
    trees = gold_tree, answer_tree
    ratios, digits = [], EQUAL_DIGITS
    for point in assignments(names, generator(repr(gold_tree), repr(answer_tree))):
        ratio, digit_range = _ratio(trees, point)
        if ratio == 0:
            return False
        if ratio is not None:
            ratios.append((ratio, point))
            digits = max(digits, EQUAL_DIGITS + digit_range)
    if len(ratios) < 3:
        return False
    first = ratios[0][0]
    if all(_close(ratio, first, digits) for ratio, _ in ratios):
        return not ordered or bool(CONTEXTS.context.im(first) == 0 and CONTEXTS.context.re(first) > 0)
    return not ordered and _is_monomial(trees, names, ratios, digits)


def _difference(sides: list[str]) -> Node | None:
    left, right = map(parse_or_none, sides)
    return None if left is None or right is None else ("add", [left, ("neg", right)])


def _ratio(trees: tuple[Node, Node], point: Assignment) -> tuple[Any | None, int]:
    """Return the ratio of two trees at a point, and the range of the computation in decimal digits.

    The ratio is None if one of them is undefined there, and 0 if one of them is 0.
    """
    values, digit_range = evaluate_both(trees, point, Convention())
    if len(values) < 2:
        return None, digit_range
    if min(map(abs, values)) < CONTEXTS.context.mpf(10) ** -(EQUAL_DIGITS + digit_range):
        return 0, digit_range
    return values[0] / values[1], digit_range


def _close(ratio: Any, other: Any, digits: int) -> bool:
    return bool(abs(ratio - other) <= abs(other) * CONTEXTS.context.mpf(10) ** -digits)


def _is_monomial(trees: tuple[Node, Node], names: list[str], ratios: list[tuple[Any, Assignment]], digits: int) -> bool:
    """Return whether the ratio is a product of powers of symbols, of which none is defined in both trees at 0.

    Doubling a symbol of exponent k must multiply the ratio by 2^k at every point, for each symbol.
    """
    for name in names:
        factors = []
        for ratio, point in ratios[:3]:
            doubled, _ = _ratio(trees, point | {name: 2 * point[name]})
            if not doubled:
                return False
            factors.append(doubled / ratio)
        exponent = next((k for k in range(-6, 7) if _close(factors[0], CONTEXTS.context.mpf(2) ** k, digits)), None)
        if exponent is None or not all(_close(factor, factors[0], digits) for factor in factors):
            return False
        if exponent and len(evaluate_both(trees, ratios[0][1] | {name: Fraction(0)}, Convention())[0]) == 2:
            return False
    return True
