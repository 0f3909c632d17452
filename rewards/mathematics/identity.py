"""Identity of expressions: exactly where both are rational, else to many digits at fixed points.

Two expressions are equal if they agree at every point to more digits than any part of them can hide: the precision
grows with the largest and the smallest number that evaluation meets.
"""

import contextlib
import itertools
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from rewards.mathematics.evaluation import CONTEXTS, Reading, TooLarge, Undefined, approximate, exact
from rewards.mathematics.expression import Node, Unreadable, read
from rewards.mathematics.numerals import number
from rewards.mathematics.text import bare

DECIMAL_PLACES = re.compile(r"[+-]?[0-9]*\.([0-9]+)")
DIGITS = 80
"""Decimal digits of the first evaluation; the second takes two more for each digit of range."""
REACH_LIMIT = 1_000
"""Range, in digits, beyond which values are not told apart."""
AGREEMENT = 60
"""Decimal digits to which equal values agree."""
POINTS = (
    (Fraction(1549, 733), Fraction(577, 1999), Fraction(3307, 1201), Fraction(887, 641)),
    (Fraction(-1237, 911), Fraction(1051, 613), Fraction(-389, 1013), Fraction(2203, 701)),
    (Fraction(-1613, 599), Fraction(-719, 1097), Fraction(-2011, 887), Fraction(-523, 409)),
    (Fraction(811, 1693), Fraction(-1429, 577), Fraction(1171, 367), Fraction(-997, 773)),
    (Fraction(2851, 419), Fraction(4007, 907), Fraction(1777, 1201), Fraction(3469, 613)),
)
"""Where symbols are given values; positive and negative ones, so that a root of a square is no identity."""


def same_expression(gold: str, answer: str) -> bool:
    """Whether two expressions are equal wherever they are defined; False for what cannot be read. Raises TooLarge."""
    ours, theirs = _tree(gold), _tree(answer)
    if ours is None or theirs is None:
        return False
    left, right = _exact_or_none(ours), _exact_or_none(theirs)
    if left is not None and right is not None:
        return left == right
    names = sorted(_symbols(ours))
    if names != sorted(_symbols(theirs)):
        return False
    return any(_agree(ours, theirs, names, reading) for reading in _readings(ours, theirs))


def same_relation(gold: list[str], answer: list[str], ordered: bool) -> bool:
    """Whether the differences of two pairs of sides differ by a constant factor only, not zero, and positive where the
    order of the sides matters; False for what cannot be read. Raises TooLarge."""
    ours, theirs = _difference(gold), _difference(answer)
    if ours is None or theirs is None:
        return False
    names = sorted(_symbols(ours))
    if not names or names != sorted(_symbols(theirs)):
        return False
    ratios, agreement, context = [], AGREEMENT, CONTEXTS.context
    for environment in _environments(names):
        values, reach = _values((ours, theirs), environment, Reading())
        if len(values) < 2:
            continue
        if min(map(abs, values)) < context.mpf(10) ** -(AGREEMENT + reach):
            return False
        ratios.append(values[0] / values[1])
        agreement = max(agreement, AGREEMENT + reach)
    if len(ratios) < 3 or (ordered and not (context.im(ratios[0]) == 0 and context.re(ratios[0]) > 0)):
        return False
    return all(abs(ratio - ratios[0]) <= abs(ratios[0]) * context.mpf(10) ** -agreement for ratio in ratios)


def rounds_to(text: str, decimal: str) -> bool:
    """Whether a decimal is the value of an expression without symbols, rounded or cut off at the decimal's places."""
    node, digits, places = _tree(text), number(decimal), DECIMAL_PLACES.fullmatch(decimal)
    if node is None or digits is None or places is None or _symbols(node):
        return False
    try:
        value, _ = approximate(node, {}, DIGITS, Reading())
    except Undefined:
        return False
    context = CONTEXTS.context
    left = (value - context.mpf(digits.numerator) / digits.denominator) * 10 ** len(places[1])
    cut_off = 0 <= left < 1 if digits > 0 else -1 < left <= 0
    return context.im(value) == 0 and bool(cut_off or abs(left) <= 0.5)


def _tree(text: str) -> Node | None:
    """A number is a number (`1e-3` is no difference), anything else an expression; None for what cannot be read."""
    value = number(text)
    try:
        return read(bare(text)) if value is None else ("num", value)
    except Unreadable:
        return None


def _difference(sides: list[str]) -> Node | None:
    left, right = map(_tree, sides)
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


def _readings(*nodes: Node) -> list[Reading]:
    kinds = {(part[0], part[1]) for node in nodes for part in _nodes(node) if part[0] == "call"}
    logs = [False, True] if ("call", "log") in kinds else [False]
    rooted = any(part[0] in ("root", "pow") for node in nodes for part in _nodes(node))
    return [Reading(*choice) for choice in itertools.product(logs, [True, False] if rooted else [True])]


def _environments(names: list[str]) -> list[dict[str, Fraction]]:
    """A value for each symbol at each point; further symbols take shifted ones."""
    if not names:
        return [{}]
    return [
        {name: row[index % len(row)] + Fraction(index // len(row), 7) for index, name in enumerate(names)}
        for row in POINTS
    ]


def _agree(ours: Node, theirs: Node, names: list[str], reading: Reading) -> bool:
    defined = 0
    for environment in _environments(names):
        values, reach = _values((ours, theirs), environment, reading)
        if len(values) == 1:
            return False
        if values:
            if abs(values[0] - values[1]) > CONTEXTS.context.mpf(10) ** -(AGREEMENT + reach):
                return False
            defined += 1
    return defined >= (3 if names else 1)


def _values(nodes: tuple[Node, Node], environment: dict[str, Fraction], reading: Reading) -> tuple[list[Any], int]:
    """The values of those of two expressions that have one here, to enough digits for the range they take on the way,
    and that range. Raises TooLarge."""
    found = _at(nodes, environment, DIGITS, reading)
    reach = max((span for _, span in found), default=0)
    if reach > REACH_LIMIT:
        raise TooLarge
    if reach > DIGITS // 4:
        found = _at(nodes, environment, DIGITS + 2 * reach, reading)
    return [value for value, _ in found], reach


def _at(
    nodes: tuple[Node, Node], environment: dict[str, Fraction], digits: int, reading: Reading
) -> list[tuple[Any, int]]:
    found = []
    for node in nodes:
        with contextlib.suppress(Undefined):
            found.append(approximate(node, environment, digits, reading))
    return found
