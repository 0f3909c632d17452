"""Bound the size, the degree, the number of terms and the numbers of a tree before sympy sees it, as sympy bounds none.

sympy computes a power of integers at once, in one step that no signal interrupts. So exponents, arguments of
factorials, and what they become at the ends of sums and integrals are bounded by the largest value that cancelling
terms can leave.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from math import comb

from rewards.mathematics.expressions.parser import Node
from rewards.mathematics.expressions.trees import children, nodes, size
from rewards.mathematics.symbolic.limits import Undecided
from rewards.mathematics.symbolic.symbols import BITS_LIMIT, OPERATORS, exact_or_none

SIZE_LIMIT = 150
"""Largest number of nodes of a tree that sympy gets."""
DEGREE_LIMIT = 40
"""Largest degree of a tree as a polynomial of its symbols."""
TERMS_LIMIT = 400
"""Largest number of terms of a tree after expansion."""
EXPONENT_LIMIT = 2_000.0
"""Largest value of an exponent or of the argument of a factorial."""
GROWING = {"factorial", "double factorial", "binomial"}


def check_size(*trees: Node) -> None:
    """Raise Undecided if one of the trees is too large for sympy."""
    for tree in trees:
        if size(tree) > SIZE_LIMIT:
            raise Undecided
        terms, degree = _extent(tree)
        if terms > TERMS_LIMIT or degree > DEGREE_LIMIT:
            raise Undecided
        _check_growth(tree, {})


def _extent(node: Node) -> tuple[int, int]:
    """Return an upper bound of the number of terms of a tree after expansion, and of its degree."""
    if node[0] == "num":
        if max(node[1].numerator.bit_length(), node[1].denominator.bit_length()) > BITS_LIMIT:
            raise Undecided
        return 1, 0
    if node[0] == "sym":
        return 1, 1
    parts = [_extent(child) for child in children(node)]
    if not parts:
        return 1, 0
    terms, degrees = [part[0] for part in parts], [part[1] for part in parts]
    if node[0] == "add":
        return sum(terms), max(degrees)
    if node[0] == "mul":
        return min(terms[0] * terms[1], TERMS_LIMIT + 1), sum(degrees)
    if node[0] == "div":
        return max(terms), sum(degrees)
    if node[0] == "pow":
        exponent = exact_or_none(node[2])
        if exponent is None:
            return 1, max(degrees)
        power = int(abs(exponent)) + 1
        if power > DEGREE_LIMIT + 1 and exact_or_none(node) is None:
            raise Undecided
        several = terms[0] > 1 and exponent.denominator == 1
        return min(comb(terms[0] + power - 2, power - 1) if several else 1, TERMS_LIMIT + 1), degrees[0] * power
    return max(terms), max(degrees)


def _check_growth(node: Node, values: Mapping[str, float]) -> None:
    """Raise Undecided if an exponent or the argument of a factorial may be above EXPONENT_LIMIT.

    Args:
        values: largest values of bound variables.
    """
    if node[0] in OPERATORS:
        places = [_magnitude(place, values) for place in node[2:-1] if isinstance(place, tuple)]
        values = {**values, node[1]: max(places, default=1.0)}
    grows: list[Node] = []
    if node[0] == "pow":
        grows = [node[2]]
    elif node[0] == "root":
        grows = [("div", ("num", Fraction(1)), node[2])]
    elif node[0] == "call" and node[1] in GROWING:
        grows = node[2]
    if any(_magnitude(part, values) > EXPONENT_LIMIT for part in grows) and not (
        node[0] == "pow" and exact_or_none(node) is not None
    ):
        raise Undecided
    for child in children(node):
        _check_growth(child, values)


def _magnitude(node: Node, values: Mapping[str, float]) -> float:
    """Return an upper bound of the absolute value that is left of a tree if all its symbols are 1 or cancel."""
    try:
        return _bound(node, values)
    except OverflowError:
        return math.inf


def _bound(node: Node, values: Mapping[str, float]) -> float:
    kind = node[0]
    if kind == "num":
        return float(abs(node[1]))
    if kind == "sym":
        return values.get(node[1], 1.0)
    if kind == "const":
        return 1.0 if node[1] == "infinity" else math.pi
    if kind in ("neg", "root", "degrees"):
        return max(_bound(node[1], values), 1.0)
    if kind == "add":
        return sum(_bound(part, values) for part in node[1])
    if kind == "mul":
        return math.prod(_bound(part, values) for part in node[1])
    if kind == "div":
        divisor = exact_or_none(node[2])
        if divisor is None:
            # A sum of integers and symbols, or a product of such sums, is at least 1 if its symbols cancel.
            whole = all(
                part[0] in ("sym", "const", "add", "mul", "neg") or (part[0] == "num" and part[1].denominator == 1)
                for part in nodes(node[2])
            )
            return _bound(node[1], values) if whole else math.inf
        return _bound(node[1], values) / abs(float(divisor)) if divisor else math.inf
    if kind == "pow":
        return max(_bound(node[1], values), 1.0) ** _bound(node[2], values)
    if kind == "call" and node[1] in ("exp", "sinh", "cosh", *GROWING):
        return math.inf
    if kind == "call":
        return max(sum(_bound(part, values) for part in node[2]), math.pi)
    return math.inf
