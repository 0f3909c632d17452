"""Refuse an expression with logarithms whose domain lacks the large positive values of the domain of the gold."""

import contextlib
from fractions import Fraction

from rewards.mathematics.expressions.evaluation import Convention, TooLarge, Undefined, approximate
from rewards.mathematics.expressions.parser import Node
from rewards.mathematics.expressions.sampling import Assignment, generator
from rewards.mathematics.expressions.trees import LOGARITHMS, nodes, symbols

POINTS = 8
DIGITS = 20
REAL = Convention(domain="gold")
"""A logarithm or an even root of a negative number has no value."""


def has_smaller_domain(gold: Node, answer: Node) -> bool:
    """Return whether the answer is real at no drawn point of large positive values at which the gold is real.

    False if the answer has no logarithm of a symbol. Example: `\\ln|x|` and `\\ln(-x)` -> True; `\\ln x` -> False.
    """
    if not any(part[0] == "call" and part[1] in LOGARITHMS and symbols(part) for part in nodes(answer)):
        return False
    draw = generator(repr(gold), repr(answer), "domain")
    names = sorted(symbols(gold) | symbols(answer))
    points = [{name: Fraction(draw.randint(10**3, 10**5), 7) for name in names} for _ in range(POINTS)]
    in_gold = [point for point in points if _is_real(gold, point)]
    return bool(in_gold) and not any(_is_real(answer, point) for point in in_gold)


def _is_real(tree: Node, point: Assignment) -> bool:
    with contextlib.suppress(TooLarge, Undefined):
        approximate(tree, point, DIGITS, REAL)
        return True
    return False
