"""Decide whether two expressions or two relations are equal.

Rational values compare exactly. Otherwise both expressions are evaluated to many digits at fixed values of their
symbols, and are equal if they agree at every point. The precision grows with the range of the intermediate values, so
that a small difference cannot disappear beside a large number: `10^{30} + 1` differs from `10^{30}`.
"""

import contextlib
import itertools
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from rewards.mathematics.evaluation import CONTEXTS, Convention, TooLarge, Undefined, approximate, exact
from rewards.mathematics.expression import Node, ParseError, parse
from rewards.mathematics.numerals import parse_number
from rewards.mathematics.text import unwrap_text

DECIMAL_PLACES = re.compile(r"[+-]?[0-9]*\.([0-9]+)")
FIRST_DIGITS = 80
"""Decimal digits of the first evaluation. If the range is above a quarter of this, a second evaluation adds two digits
for each digit of range."""
RANGE_LIMIT = 1_000
"""Largest range, in decimal digits, for which two values are compared. Above it TooLarge is raised."""
EQUAL_DIGITS = 60
"""Two values are equal if they differ by at most `10^-(EQUAL_DIGITS + range)`."""
POINTS = (
    (Fraction(1549, 733), Fraction(577, 1999), Fraction(3307, 1201), Fraction(887, 641)),
    (Fraction(-1237, 911), Fraction(1051, 613), Fraction(-389, 1013), Fraction(2203, 701)),
    (Fraction(-1613, 599), Fraction(-719, 1097), Fraction(-2011, 887), Fraction(-523, 409)),
    (Fraction(811, 1693), Fraction(-1429, 577), Fraction(1171, 367), Fraction(-997, 773)),
    (Fraction(2851, 419), Fraction(4007, 907), Fraction(1777, 1201), Fraction(3469, 613)),
)
"""Values of the symbols at each point. Some are negative, so that `\\sqrt{x^2}` does not equal `x`."""


def same_expression(gold: str, answer: str) -> bool:
    """Return whether two expressions are equal at every test point at which they are defined.

    They must have the same symbols, agree under one Convention, and be defined at three points or more. Returns False
    if one of them cannot be parsed. Example: `"(x+1)^2"` and `"x^2+2x+1"` -> True.
    Raises: TooLarge.
    """
    gold_tree, answer_tree = _parse_or_none(gold), _parse_or_none(answer)
    if gold_tree is None or answer_tree is None:
        return False
    gold_value, answer_value = _exact_or_none(gold_tree), _exact_or_none(answer_tree)
    if gold_value is not None and answer_value is not None:
        return gold_value == answer_value
    symbols = sorted(_symbols(gold_tree))
    if symbols != sorted(_symbols(answer_tree)):
        return False
    return any(
        _equal_at_points(gold_tree, answer_tree, symbols, convention)
        for convention in _conventions(gold_tree, answer_tree)
    )


def same_relation(gold: list[str], answer: list[str], ordered: bool) -> bool:
    """Return whether two relations, each a left and a right side, are the same up to a constant factor.

    With d = left - right of each, the ratio d_gold / d_answer must be the same nonzero constant at every point.
    Example: `["2x", "4"]` and `["x", "2"]` -> True. Returns False if a side cannot be parsed.

    Args:
        ordered: the relation has a direction, as `<` has, so the constant must also be positive.
    Raises: TooLarge.
    """
    gold_tree, answer_tree = _difference(gold), _difference(answer)
    if gold_tree is None or answer_tree is None:
        return False
    symbols = sorted(_symbols(gold_tree))
    if not symbols or symbols != sorted(_symbols(answer_tree)):
        return False
    ratios, equal_digits, context = [], EQUAL_DIGITS, CONTEXTS.context
    for assignment in _assignments(symbols):
        values, digit_range = _values((gold_tree, answer_tree), assignment, Convention())
        if len(values) < 2:
            continue
        if min(map(abs, values)) < context.mpf(10) ** -(EQUAL_DIGITS + digit_range):
            return False
        ratios.append(values[0] / values[1])
        equal_digits = max(equal_digits, EQUAL_DIGITS + digit_range)
    if len(ratios) < 3 or (ordered and not (context.im(ratios[0]) == 0 and context.re(ratios[0]) > 0)):
        return False
    return all(abs(ratio - ratios[0]) <= abs(ratios[0]) * context.mpf(10) ** -equal_digits for ratio in ratios)


def rounds_to(text: str, decimal: str) -> bool:
    """Return whether `decimal` is the value of `text` rounded or truncated to the decimal places of `decimal`.

    False if `text` has symbols. Example: `"\\sqrt{2}"` and `"1.41"` -> True.
    """
    node, digits, decimal_places = _parse_or_none(text), parse_number(decimal), DECIMAL_PLACES.fullmatch(decimal)
    if node is None or digits is None or decimal_places is None or _symbols(node):
        return False
    try:
        value, _ = approximate(node, {}, FIRST_DIGITS, Convention())
    except Undefined:
        return False
    context = CONTEXTS.context
    error = (value - context.mpf(digits.numerator) / digits.denominator) * 10 ** len(decimal_places[1])
    truncated = 0 <= error < 1 if digits > 0 else -1 < error <= 0
    return context.im(value) == 0 and bool(truncated or abs(error) <= 0.5)


def _parse_or_none(text: str) -> Node | None:
    """Parse a number or an expression; None if the text is neither. `1e-3` is a number, not the difference 1*e - 3."""
    value = parse_number(text)
    try:
        return parse(unwrap_text(text)) if value is None else ("num", value)
    except ParseError:
        return None


def _difference(sides: list[str]) -> Node | None:
    left, right = map(_parse_or_none, sides)
    return None if left is None or right is None else ("add", [left, ("neg", right)])


def _exact_or_none(node: Node) -> Fraction | None:
    try:
        return exact(node)
    except Undefined:
        return None


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    for part in node[1:]:
        for inner in part if isinstance(part, list) else [part]:
            if isinstance(inner, tuple):
                yield from _nodes(inner)


def _symbols(node: Node) -> set[str]:
    return {part[1] for part in _nodes(node) if part[0] in ("sym", "opaque")}


def _conventions(*nodes: Node) -> list[Convention]:
    """Return the conventions that can change the value of any of these trees."""
    kinds = {(part[0], part[1]) for node in nodes for part in _nodes(node) if part[0] == "call"}
    logs = [False, True] if ("call", "log") in kinds else [False]
    has_powers = any(part[0] in ("root", "pow") for node in nodes for part in _nodes(node))
    return [Convention(*choice) for choice in itertools.product(logs, [True, False] if has_powers else [True])]


def _assignments(symbols: list[str]) -> list[dict[str, Fraction]]:
    """Return the value of each symbol at each point. Symbols beyond the fourth take shifted values of a point."""
    if not symbols:
        return [{}]
    return [
        {name: row[index % len(row)] + Fraction(index // len(row), 7) for index, name in enumerate(symbols)}
        for row in POINTS
    ]


def _equal_at_points(gold_tree: Node, answer_tree: Node, symbols: list[str], convention: Convention) -> bool:
    """Return whether two trees agree at all points. A point at which only one of them is defined is a difference."""
    defined = 0
    for assignment in _assignments(symbols):
        values, digit_range = _values((gold_tree, answer_tree), assignment, convention)
        if len(values) == 1:
            return False
        if values:
            if abs(values[0] - values[1]) > CONTEXTS.context.mpf(10) ** -(EQUAL_DIGITS + digit_range):
                return False
            defined += 1
    return defined >= (3 if symbols else 1)


def _values(nodes: tuple[Node, Node], assignment: dict[str, Fraction], convention: Convention) -> tuple[list[Any], int]:
    """Evaluate two trees at one point, precisely enough for the range of their intermediate values.

    Returns: the values of those that are defined there (none, one or two), and the range in decimal digits.
    Raises: TooLarge above RANGE_LIMIT.
    """
    found = _evaluate(nodes, assignment, FIRST_DIGITS, convention)
    digit_range = max((digit_range for _, digit_range in found), default=0)
    if digit_range > RANGE_LIMIT:
        raise TooLarge
    if digit_range > FIRST_DIGITS // 4:
        found = _evaluate(nodes, assignment, FIRST_DIGITS + 2 * digit_range, convention)
    return [value for value, _ in found], digit_range


def _evaluate(
    nodes: tuple[Node, Node], assignment: dict[str, Fraction], digits: int, convention: Convention
) -> list[tuple[Any, int]]:
    found = []
    for node in nodes:
        with contextlib.suppress(Undefined):
            found.append(approximate(node, assignment, digits, convention))
    return found
